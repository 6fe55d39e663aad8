"""Read a file of columns: what separates its cells, whether its first line names them, what is written as a number.

What cannot be told for certain is refused, with the line and what to change.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lctprune.data.header import has_header
from lctprune.errors import DataError
from lctprune.utils.files import read_regular
from lctprune.utils.names import visible

SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}
SAMPLED_LINES = 20  # that the separator is found by
_NUMBER = r"[+-]?(?:\d+{0}?\d*|{0}\d+)(?:[eE][+-]?\d+)?"
POINT, COMMA = (re.compile(_NUMBER.format(mark), re.ASCII) for mark in (r"\.", ","))
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class TableFile(NamedTuple):
    """The content of a table.

    Attributes:
        path: the file.
        names: name of each column; its number, from 1, in a table whose first line is not one of names.
        rows: line in the file and cells of each row; a decimal comma has been replaced by a point.
        is_named: whether the first line holds the names.
    """

    path: Path
    names: tuple[str, ...]
    rows: list[tuple[int, list[str]]]
    is_named: bool


def read_table(path: Path, *, known: Sequence[str] | None = None) -> TableFile:
    """Read a table whose columns are separated by commas, semicolons, tabs or bars, in UTF-8.

    Lines without any content are left out. The first line holds the names of the columns unless `has_header` finds it
    to be a row.

    Args:
        path: the file.
        known: names of columns by which an earlier reading knew this table; if they stand in the first line, it holds
            the names.

    Raises:
        DataError: the file cannot be read, its lines differ in length, its first line is neither certainly a row nor
            certainly one of names, a name is missing or occurs twice, or it cannot be told what a comma means.
    """
    text = _text(path)
    separator = _separator(text)
    rows = _rows(path, text, separator)
    if max((len(cells) for _, cells in rows), default=0) < 2:
        raise DataError(
            f"{path} has no line of 2 columns or more; separate them by commas, semicolons or tabs, as in a,b,kind"
        )
    if separator != "," and "," in text:
        rows = _with_points(path, rows)
    for line, cells in rows:
        if len(cells) != len(rows[0][1]):
            raise DataError(
                f"{path}, line {line} has {len(cells)} cells; line {rows[0][0]} has {len(rows[0][1])}, separated by "
                f"{SEPARATORS[separator]}"
            )
    if not any(cells[-1].strip() for _, cells in rows):
        raise DataError(
            f"{path}: column {len(rows[0][1])}, the last, is empty in every line; remove the "
            f"{SEPARATORS[separator][:-1]} at the end of the lines"
        )
    first = [cell.strip() for cell in rows[0][1]]
    is_named = set(known) <= set(first) if known is not None else has_header(path, rows, is_number)
    if not is_named:
        return TableFile(path, tuple(str(number) for number in range(1, len(first) + 1)), rows, False)
    _check_names(path, first)
    return TableFile(path, tuple(first), rows[1:], True)


def is_number(text: str) -> bool:
    """Whether a cell is written as a finite number with a decimal point."""
    return POINT.fullmatch(text) is not None


def _text(path: Path) -> str:
    try:
        content = read_regular(path, DataError)
    except OSError as error:
        raise DataError(f"the table {path} cannot be read ({error.strerror})") from error
    if content.startswith(_UTF16):
        raise DataError(f"the table {path} is in UTF-16; save it as CSV in UTF-8")
    if b"\0" in content:
        raise DataError(f"the table {path} is no text file; save a spreadsheet as CSV in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"the table {path} cannot be read: line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); save it "
            "as CSV in UTF-8"
        ) from error


def _separator(text: str) -> str:
    """Return the character by which the first lines have most cells that are numbers, or else most cells."""
    best, most = ",", (0, 0)
    for separator in SEPARATORS:
        rows = [row for row in itertools.islice(_reader(text, separator), SAMPLED_LINES) if len(row) > 1]
        cells = [cell.strip() for row in rows for cell in row]
        numbers = sum(is_number(cell) or (separator != "," and COMMA.fullmatch(cell) is not None) for cell in cells)
        if (found := (numbers, 0 if numbers else len(cells))) > most:
            best, most = separator, found
    return best


def _reader(text: str, separator: str) -> Any:  # typeshed has no public name for it
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)


def _rows(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    reader, rows, line = _reader(text, separator), [], 1
    try:
        for cells in reader:
            if any(cell and not cell.isspace() for cell in cells):
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"the table {path} cannot be read: line {line}: {error}") from error
    return rows


def _with_points(path: Path, rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
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


def _check_names(path: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names, 1):
        if not name:
            raise DataError(
                f"{path}: column {number} has no name in the first line; give it one, or remove the column (pandas "
                "writes an unnamed one without index=False)"
            )
        if names.index(name) < number - 1:
            raise DataError(
                f"{path}: columns {names.index(name) + 1} and {number} have the same name, {visible(name)!r}; give "
                "every column another one"
            )
