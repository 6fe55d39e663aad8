"""Turn rows of a table into numbers by a recorded encoding: cells of numbers, dates and texts, some of them missing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from lctprune.config.run import DataRecord
from lctprune.config.table import ColumnEncoding, TableEncoding
from lctprune.data.delimited import is_number
from lctprune.data.preprocessing import Normalization
from lctprune.data.tables.cells import (
    INFINITE,
    LARGEST,
    cell_error,
    column_label,
    numbers_of,
    refuse_distant,
    shown_cell,
)
from lctprune.data.tables.files import TableFile, read_table
from lctprune.data.tables.header import is_missing
from lctprune.errors import DataError, DataWarning
from lctprune.utils.names import visible
from lctprune.utils.wording import counted

MOST_VALUES = 2**29  # of an encoded table: 4 GiB
SHOWN = 4  # columns or cells in a message
SECONDS_A_DAY = 86400
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ].*)?", re.ASCII)


def encode_rows(record: DataRecord, rows: str | Path | Sequence[Mapping[str, object]]) -> Tensor:
    """Turn raw rows into inputs of a run's network, encoded and standardised as its training data was.

    Columns are found by name, in any order, and may have further ones beside them.

    Args:
        record: record of the run's data, a table (`run.config.data`).
        rows: a table's file with a line of names; or rows of cells by the names of the columns, in which None and NaN
            are missing.

    Returns:
        float32 [rows, columns].

    Raises:
        DataError: a column is missing, a cell cannot be used, or the file cannot be read.
    """
    encoding = record.encoding
    names = record.columns or () if encoding is None else [column.name for column in encoding.used]
    is_named = not all(map(str.isdecimal, names))  # the columns of a table without names have numbers
    known = () if is_named else names
    table = read_table(Path(rows), known=known, least=1) if isinstance(rows, str | Path) else _as_table(rows, names)
    if not table.rows:
        raise DataError(f"{table.path} has no rows to encode; give at least 1")
    require_columns(table, names)
    return row_inputs(table, names, Normalization(record.mean, record.std), encoding)


def row_inputs(
    table: TableFile, names: Sequence[str], normalization: Normalization, encoding: TableEncoding | None
) -> Tensor:
    """Turn the cells of a table into inputs, float32 [rows, features].

    Args:
        table: table that has the network's columns.
        names: these columns, in their order.
        normalization: mean and deviation of each number of a row.
        encoding: how cells become numbers, of a table that has not only numbers.

    Raises:
        DataError: a cell is missing, cannot be used, or is too far from the mean.
    """
    if encoding is None:
        places = table.places
        values, sources = numbers_of(table, [places[name] for name in names]), names
    else:
        values, sources = encode(encoding, table), sources_of(encoding)
    values = standardized(values, normalization)
    refuse_distant(table, sources, values, normalization)
    return values


def require_columns(table: TableFile, names: Sequence[str]) -> None:
    """Require columns of a table.

    Raises:
        DataError: columns are missing.
    """
    places = table.places
    missing = [name for name in names if name not in places]
    if missing:
        raise DataError(
            f"{table.path} has no {'column' if len(missing) == 1 else 'columns'} {listed(missing)}, which the training "
            f"data has; it has {listed(table.names)}"
        )


def _as_table(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> TableFile:
    for number, row in enumerate(rows, 1):
        if missing := [name for name in names if name not in row]:
            raise DataError(f"row {number} has no {listed(missing)}, which the training data has; it has {listed(row)}")
    lines = [(number, [_text(row[name]) for name in names]) for number, row in enumerate(rows, 1)]
    return TableFile(Path("rows"), tuple(names), lines, True)


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)  # NaN is no number that equals itself


def standardized(values: Tensor, normalization: Normalization) -> Tensor:
    """Subtract the mean of each column and divide by its deviation: float64 to float32, [rows, columns]."""
    mean, std = (torch.tensor(statistic, dtype=torch.float64) for statistic in normalization)
    return ((values - mean) / std).float()  # single precision comes last: large numbers may differ little


def encode(encoding: TableEncoding, table: TableFile) -> Tensor:
    """Turn the rows of a table into numbers, which are not yet standardised.

    Args:
        encoding: how the cells of each column become numbers.
        table: table that has these columns, by name.

    Returns:
        float64 [rows, columns], in the order of `encoding.names`.

    Raises:
        DataError: a cell cannot be used, or the result would not fit into memory.

    Warns:
        DataWarning: texts in columns of numbers are taken for missing.
    """
    if len(table.rows) * len(encoding.names) > MOST_VALUES:
        raise DataError(
            f"{table.path} has {len(table.rows):,} rows, and its texts make {len(encoding.names):,} columns: "
            f"{len(table.rows) * len(encoding.names):,} values, of which there may be {MOST_VALUES:,}; remove columns "
            "of text, or rows"
        )
    values = torch.zeros(len(table.rows), len(encoding.names), dtype=torch.float64)
    start, marks, places = 0, {}, table.places
    for column in encoding.used:
        index = places[column.name]
        block = values[:, start : (start := start + len([*column.names]))]
        if column.kind == "text":
            _encode_texts(column, cells_of(table, index), block)
        elif found := _encode_numbers(column, table, index, block):
            marks[column.name] = found
    if marks:
        shown = [f"{visible(name)} {', '.join(map(shown_cell, found[:SHOWN]))}" for name, found in marks.items()]
        text = f"{table.path}: texts among numbers are taken for missing: {'; '.join(shown[:SHOWN])}"
        warnings.warn(text, DataWarning, stacklevel=4)
    return values


def cells_of(table: TableFile, index: int) -> list[str]:
    """Return the cells of a column, without blanks around them; "" where they are missing."""
    cells = [cells[index] for _, cells in table.rows]
    texts = {cell: "" if is_missing(cell) else cell.strip() for cell in {*cells}}
    return [texts[cell] for cell in cells]


def _encode_texts(column: ColumnEncoding, cells: Sequence[str], block: Tensor) -> None:
    places = {category: place for place, category in enumerate(column.categories)}
    other = len(places) if column.other else -1
    found = torch.tensor([places.get(cell, other) for cell in cells], dtype=torch.int64)
    known = (found >= 0).nonzero()[:, 0]
    block[known, found[known]] = 1


def _encode_numbers(column: ColumnEncoding, table: TableFile, index: int, block: Tensor) -> list[str]:
    """Fill in the numbers of a column, and return the texts in it that are taken for missing."""
    cells = cells_of(table, index)
    numbers = {cell: value_of(cell, column.kind) for cell in {*cells}}
    unread = {cell for cell, number in numbers.items() if number is None and cell}
    for (line, _), cell in zip(table.rows, cells, strict=True) if unread else ():
        if cell in unread and not is_mark(cell):
            raise _no_value(table, line, index, column)
    nan = float("nan")
    values = torch.tensor([nan if (number := numbers[cell]) is None else number for cell in cells], dtype=torch.float64)
    gaps = values.isnan()
    block[:, 0] = values.where(~gaps, torch.tensor(column.fill, dtype=torch.float64))
    if column.marks_gaps:
        block[:, 1] = gaps
    return sorted(unread)


def _no_value(table: TableFile, line: int, index: int, column: ColumnEncoding) -> DataError:
    if column.kind == "number":
        return cell_error(table, line, index, otherwise=", or empty where it is missing")
    where = f"{table.path}, line {line}: {column_label(table, index)}"
    return DataError(f"{where} must be a date as 2026-01-31, as in other rows, or empty where it is missing")


def value_of(cell: str, kind: str) -> float | None:
    """Return the number that a cell says: itself, or the days since 1970-01-01 of a date; None if it is none."""
    if kind == "date":
        return _days(cell)
    return float(cell) if is_number(cell) and abs(float(cell)) <= LARGEST else None


def is_mark(cell: str) -> bool:
    """Whether a text among numbers says no number, such as unknown: it has no digit, and is not infinite."""
    return not any(map(str.isdigit, cell)) and cell.lower().lstrip("+-") not in INFINITE


def _days(cell: str) -> float | None:
    if not _DATE.fullmatch(cell):
        return None
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / SECONDS_A_DAY


def sources_of(encoding: TableEncoding) -> list[str]:
    """Return the column of the table that each number of a row comes from."""
    return [column.name for column in encoding.used for _ in column.names]


def summary(encoding: TableEncoding) -> str:
    """Say in a line what becomes of the columns of a table, and which were taken as what."""
    parts = []
    for kind, meant in (("number", ""), ("date", " as days"), ("text", " as categories")):
        columns = [column for column in encoding.used if column.kind == kind]
        if not columns:
            continue
        gaps = sum(column.marks_gaps for column in columns)
        notes = [f"{gaps} with gaps, filled with the median"] * bool(gaps)
        if kind == "text":
            rare = listed([column.name for column in columns if column.other])
            notes = [f"{counted(sum(len([*column.names]) for column in columns), 'column')} one-hot"]
            notes += [f"rare values of {rare} as one"] * bool(rare)
        names = listed([column.name for column in columns])
        parts.append(f"{counted(len(columns), kind)}{meant} ({'; '.join([names, *notes])})")
    unused = unused_columns(encoding)
    return ", ".join(parts) + (f"; left out: {unused}" if unused else "")


def unused_columns(encoding: TableEncoding) -> str:
    """List the columns that are left out, and why."""
    reasons = dict.fromkeys(column.reason for column in encoding.columns if column.kind == "unused")
    return ", ".join(
        f"{listed([column.name for column in encoding.columns if column.reason == reason])} ({reason})"
        for reason in reasons
    )


def listed(names: Sequence[str] | Mapping[str, object]) -> str:
    """List names of columns, the first few of many."""
    shown = ", ".join(visible(name) or "column 1" for name in [*names][:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
