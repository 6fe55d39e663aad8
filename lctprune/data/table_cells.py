"""Turn the cells of a table into numbers, and say of each that cannot be used in which line and column it stands."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from lctprune.data.delimited import COMMA, is_number
from lctprune.data.header import is_missing
from lctprune.data.preprocessing import Normalization
from lctprune.data.table_files import TableFile
from lctprune.errors import DataError, DataWarning
from lctprune.utils.names import visible

LARGEST = 1e100  # of a cell: the squares of larger numbers have no sum
SHOWN_CHARACTERS = 40  # of a cell in a message
ROW_NUMBERS = ("id", "index", "unnamed: 0")  # names of columns that number the rows, in lower case


def column_label(table: TableFile, index: int) -> str:
    """Name a column in a message: by its name, or as "column 3" if it has none."""
    return visible(table.names[index]) if table.is_named else f"column {table.names[index]}"


def numbers_of(table: TableFile, columns: Sequence[int], target: str | None) -> Tensor:
    """Read columns of numbers.

    Args:
        table: the table.
        columns: indices of the columns.
        target: name of the column to predict as the user gave it; None if it was left to be the last.

    Returns:
        float64 [rows, columns].

    Raises:
        DataError: a cell is missing, no number, or too large.
    """
    try:
        if any("_" in "".join(cells) for _, cells in table.rows):  # float takes 1_000 for a number
            _refuse_first(table, columns, target)
        values = torch.tensor(
            [[float(cells[index]) for index in columns] for _, cells in table.rows], dtype=torch.float64
        )
    except ValueError:
        _refuse_first(table, columns, target)
        raise
    if not (values.abs() <= LARGEST).all():  # not so of NaN either
        _refuse_first(table, columns, target)
    return values


def _refuse_first(table: TableFile, columns: Sequence[int], target: str | None) -> None:
    """Refuse the first cell that is no number that can be computed with."""
    for line, cells in table.rows:
        for index in columns:
            cell = cells[index].strip()
            if not is_number(cell) or not abs(float(cell)) <= LARGEST:
                where = f"{table.path}, line {line}: {column_label(table, index)}"
                shown = repr(cell if len(cell) <= SHOWN_CHARACTERS else f"{cell[: SHOWN_CHARACTERS - 3]}...")
                raise DataError(f"{where} is {_problem(table, index, cell, shown, target)}")


def _problem(table: TableFile, index: int, cell: str, shown: str, target: str | None) -> str:
    if is_missing(cell):
        return f"missing ({shown}); it must be a number: fill it in, or remove the row or the column"
    if is_number(cell) or cell.lower().lstrip("+-") in ("inf", "infinity"):
        return f"{shown}; it must be a number between -{LARGEST:g} and {LARGEST:g}"
    texts = sum(not is_number(cells[index].strip()) for _, cells in table.rows)
    if 2 * texts <= len(table.rows) or COMMA.fullmatch(cell):
        return f"{shown}; it must be a number, with a decimal point and no other mark"
    predict = "" if target is not None else f" (if it is what to predict: --target {visible(table.names[index])})"
    return f"{shown}; it must be a number: encode the text as numbers, or remove the column{predict}"


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
