"""Turn the cells of a table into numbers, and say of each that cannot be used in which line and column it stands."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from lctprune.data.delimited import COMMA, is_number
from lctprune.data.preprocessing import Normalization
from lctprune.data.tables.files import TableFile
from lctprune.data.tables.header import is_missing
from lctprune.errors import DataError, DataWarning
from lctprune.utils.names import visible

LARGEST = 1e100  # of a cell: the squares of larger numbers have no sum
INFINITE = ("inf", "infinity")  # in lower case and without a sign
SHOWN_CHARACTERS = 40  # of a cell in a message
ROW_NUMBERS = ("id", "index", "unnamed: 0")  # names of columns that number the rows, in lower case


def column_label(table: TableFile, index: int) -> str:
    """Name a column in a message: by its name, or as "column 3" if it has none."""
    name = table.names[index]
    return visible(name) if table.is_named and name else f"column {name or index + 1}"


def shown_cell(cell: str) -> str:
    """Return a cell as messages show it: its beginning, if it is long."""
    return repr(cell if len(cell) <= SHOWN_CHARACTERS else f"{cell[: SHOWN_CHARACTERS - 3]}...")


def numbers_of(table: TableFile, columns: Sequence[int]) -> Tensor:
    """Read columns of numbers.

    Args:
        table: the table.
        columns: indices of the columns.

    Returns:
        float64 [rows, columns].

    Raises:
        DataError: a cell is missing, no number, or too large.
    """
    values = plain_numbers(table, columns)
    if values is None:
        unusable = ((line, index) for line, cells in table.rows for index in columns if not _is_usable(cells[index]))
        if found := next(unusable, None):
            raise cell_error(table, *found)
        rows = [[float(cells[index].strip()) for index in columns] for _, cells in table.rows]
        values = torch.tensor(rows, dtype=torch.float64)
    return values


def plain_numbers(table: TableFile, columns: Sequence[int]) -> Tensor | None:
    """Read columns of numbers, as `numbers_of` does; None if a cell is missing, no number, or too large."""
    lines = (cells for _, cells in table.rows if "_" in "".join(cells))  # float takes 1_000 for a number
    if any("_" in cells[index] for cells in lines for index in columns):
        return None
    try:
        values = torch.tensor(
            [[float(cells[index]) for index in columns] for _, cells in table.rows], dtype=torch.float64
        )
    except ValueError:
        return None
    return values if (values.abs() <= LARGEST).all() else None  # not so of NaN either


def _is_usable(cell: str) -> bool:
    cell = cell.strip()  # also of the separators \x1c to \x1f, which `float` does not take for blanks
    return is_number(cell) and abs(float(cell)) <= LARGEST


def cell_error(table: TableFile, line: int, index: int, *, otherwise: str = "") -> DataError:
    """Return the error that says why a cell is no number that can be computed with.

    Args:
        table: the table.
        line: line of the file.
        index: index of the column.
        otherwise: what the cell may be instead.
    """
    cell = next(cells for number, cells in table.rows if number == line)[index].strip()
    return DataError(
        f"{table.path}, line {line}: {column_label(table, index)} is {_problem(table, index, cell, otherwise)}"
    )


def _problem(table: TableFile, index: int, cell: str, otherwise: str) -> str:
    shown = shown_cell(cell)
    if is_missing(cell):
        return f"missing ({shown}); it must be a number: fill it in, or remove the row or the column"
    if is_number(cell) or cell.lower().lstrip("+-") in INFINITE:
        return f"{shown}; it must be a number between -{LARGEST:g} and {LARGEST:g}{otherwise}"
    texts = sum(not is_number(cells[index].strip()) for _, cells in table.rows)
    if otherwise or 2 * texts <= len(table.rows) or COMMA.fullmatch(cell):
        return f"{shown}; it must be a number, with a decimal point and no other mark{otherwise}"
    return f"{shown}; it must be a number: to predict texts, leave out `task=regression`"


def refuse_distant(table: TableFile, names: Sequence[str], values: Tensor, normalization: Normalization) -> None:
    """Refuse values that are not finite once they are standardised.

    Args:
        table: the table.
        names: names of the columns.
        values: standardised numbers, [rows, columns].
        normalization: mean and deviation of each column.

    Raises:
        DataError: there is such a value.
    """
    places = (~values.isfinite()).nonzero()
    if len(places) == 0:
        return
    row, column = places[0].tolist()
    line, cells = table.rows[row]
    index = table.names.index(names[column])
    mean, std = (statistic[column] for statistic in normalization)
    raise DataError(
        f"{table.path}, line {line}: {column_label(table, index)} is {cells[index].strip()!r}, too far from the "
        f"training split's mean of {mean:g} (deviation {std:g}) to compute with; correct it, or scale the column"
    )


def warn_of_row_numbers(table: TableFile, columns: Sequence[str], inputs: Tensor) -> None:
    """Warn of a column that seems to number the rows: a network can only learn it by heart.

    Args:
        table: the table.
        columns: names of the input columns.
        inputs: their numbers, [rows, columns].
    """
    for name, values in zip(columns, inputs.unbind(1), strict=True):
        may_be = name.lower() in ROW_NUMBERS if table.is_named else name == "1"
        if may_be and bool((values == values.round()).all()) and len(set(values.tolist())) == len(values):
            label = column_label(table, table.names.index(name))
            warnings.warn(
                f"{label} of {table.path} is another whole number in every row, as a row's number is; remove the "
                "column unless it says something about the target",
                DataWarning,
                stacklevel=4,
            )
