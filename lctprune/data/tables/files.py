"""Read a file of columns: what separates its cells, whether its first line names them, what is written as a number.

What cannot be told for certain is refused, with the line and what to change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lctprune.data.delimited import COMMA, SEPARATORS, Lines, is_number, read_cells
from lctprune.data.tables.header import has_header
from lctprune.errors import DataError
from lctprune.utils.names import visible
from lctprune.utils.wording import counted

_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)


Odd = list[tuple[int, str]]  # lines, and what is wrong with them


class TableFile(NamedTuple):
    """The content of a table.

    Attributes:
        path: the file.
        names: name of each column; its number, from 1, in a table whose first line is not one of names. The first may
            be "", if it is another one in every row, such as pandas' index.
        rows: line in the file and cells of each row; a decimal comma has been replaced by a point.
        is_named: whether the first line holds the names.
    """

    path: Path
    names: tuple[str, ...]
    rows: Lines
    is_named: bool

    @property
    def places(self) -> dict[str, int]:
        """Index of each column, by its name."""
        return {name: index for index, name in enumerate(self.names)}


def read_table(path: Path, *, known: Sequence[str] | None = None, least: int = 2, odd: Odd | None = None) -> TableFile:
    """Read a table whose columns are separated by commas, semicolons, tabs or bars, in UTF-8.

    Lines without any content are left out. The first line holds the names of the columns unless `has_header` finds it
    to be a row.

    Args:
        path: the file.
        known: names of columns by which an earlier reading knew this table; if they stand in the first line, it holds
            the names.
        least: least number of columns; a table without a column to predict may have one.
        odd: list that takes lines of another length than the first one, and what is wrong with them; by default they
            are refused.

    Raises:
        DataError: the file cannot be read, its lines differ in length, its first line is neither certainly a row nor
            certainly one of names, a name is missing or occurs twice, or it cannot be told what a comma means.
    """
    rows, separator = read_cells(path)
    if max((len(cells) for _, cells in rows), default=0) < least:
        raise DataError(
            f"{path} has no line of {counted(least, 'column')} or more; separate them by commas, semicolons or tabs, "
            "as in a,b,kind"
        )
    if separator != "," and any("," in cell for _, cells in rows for cell in cells):
        rows = _with_points(path, rows)
    for line, cells in rows:
        if len(cells) != len(rows[0][1]):
            problem = (
                f"{path}, line {line} has {len(cells)} cells; line {rows[0][0]} has {len(rows[0][1])}, separated by "
                f"{SEPARATORS[separator]}"
            )
            if odd is None:
                raise DataError(problem)
            odd.append((line, problem))
    if odd:
        rows = [each for each in rows if len(each[1]) == len(rows[0][1])]
    if not any(cells[-1].strip() for _, cells in rows):
        raise DataError(
            f"{path}: column {len(rows[0][1])}, the last, is empty in every line; remove the "
            f"{SEPARATORS[separator][:-1]} at the end of the lines"
        )
    first = [cell.strip() for cell in rows[0][1]]
    is_named = set(known) <= set(first) if known is not None else has_header(path, rows, is_number)
    if not is_named:
        return TableFile(path, tuple(str(number) for number in range(1, len(first) + 1)), rows, False)
    _check_names(path, first, rows[1:])
    return TableFile(path, tuple(first), rows[1:], True)


def _with_points(path: Path, rows: Lines) -> Lines:
    """Replace decimal commas by points, where every number of the table that has one or the other has a comma.

    Raises:
        DataError: a comma may stand for a decimal point or between thousands.
    """
    marked = [(line, text) for line, cells in rows for cell in cells if "," in (text := cell.strip()) or "." in text]
    commas = [(line, text) for line, text in marked if COMMA.fullmatch(text)]
    if not commas or any("." in text and is_number(text) for _, text in marked):
        return rows
    line, text = commas[0]
    if all(_THOUSANDS.fullmatch(text) for _, text in commas):
        raise DataError(
            f"{path}, line {line}: {text!r} may be {text.replace(',', '.')} or {text.replace(',', '')}; write numbers "
            "with a decimal point, and thousands without a comma"
        )
    return [
        (line, [cell.replace(",", ".") if COMMA.fullmatch(cell.strip()) else cell for cell in cells])
        for line, cells in rows
    ]


def _check_names(path: Path, names: Sequence[str], rows: Lines) -> None:
    numbers: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name and not (number == 1 and len({cells[0].strip() for _, cells in rows}) == len(rows)):
            raise DataError(f"{path}: column {number} has no name in the first line; give it one, or remove the column")
        if (first := numbers.setdefault(name, number)) < number:
            raise DataError(
                f"{path}: columns {first} and {number} have the same name, {visible(name)!r}; give every column "
                "another one"
            )
