"""Rows of a table without a target, as a network takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from lctprune.config.table import TableEncoding
from lctprune.data.images.listing import some
from lctprune.data.preprocessing import Normalization
from lctprune.data.tables.encoding import row_inputs
from lctprune.data.tables.files import Odd, TableFile, read_table
from lctprune.errors import DataError
from lctprune.utils.names import visible


def rows_of(
    path: Path, columns: Sequence[str] | None, normalization: Normalization, encoding: TableEncoding | None = None
) -> Iterator[tuple[int, Tensor | None, str]]:
    """Yield each row of a table: its line in the file, its input, float32 [features], or why it has none.

    Args:
        path: the file; columns that the network does not take, such as that of the target, are left out.
        columns: names of the columns that the network takes; None if they are not known.
        normalization: mean and deviation of each number of a row.
        encoding: how cells become numbers, of a table that has not only numbers.

    Raises:
        DataError: the file cannot be read, or a column is missing.
    """
    odd: Odd = []
    if encoding is not None:
        columns = [column.name for column in encoding.used]
    count = len(normalization.mean) if encoding is None or columns is None else len(columns)
    table = _chosen(read_table(path, known=columns, least=1, odd=odd), columns, count)
    try:
        inputs: Sequence[Tensor | None] = row_inputs(table, table.names, normalization, encoding).unbind()
        problems: Sequence[str] = [""] * len(table.rows)
    except DataError:  # of some row
        inputs, problems = zip(
            *(_one(table._replace(rows=[row]), normalization, encoding) for row in table.rows), strict=True
        )
    found = [(line, row, problem) for (line, _), row, problem in zip(table.rows, inputs, problems, strict=True)]
    yield from sorted(found + [(line, None, problem) for line, problem in odd], key=lambda each: each[0])


def _one(table: TableFile, normalization: Normalization, encoding: TableEncoding | None) -> tuple[Tensor | None, str]:
    try:
        return row_inputs(table, table.names, normalization, encoding)[0], ""
    except DataError as error:
        return None, str(error)


def _chosen(table: TableFile, columns: Sequence[str] | None, count: int) -> TableFile:
    """Return the columns that the network takes, in its order.

    Raises:
        DataError: one is missing, or there are no rows.
    """
    path, width = table.path, len(table.names)
    if not table.rows:
        raise DataError(f"{path} has no rows")
    if columns is not None and set(columns) <= set(table.names):
        places = [table.names.index(name) for name in columns]
    elif width == count and (columns is None or all(name.isdecimal() for name in columns)):
        columns, places = columns or table.names, list(range(width))  # without the column of the target
    elif columns is None:
        raise DataError(f"{path} has {width} columns; the network takes {count}")
    else:
        first = [cell.strip() for cell in table.rows[0][1]]
        missing = [visible(name) for name in columns if name not in (table.names if table.is_named else first)]
        raise DataError(
            f"{path} has no column {some(missing)}; the first line must name the columns that the network takes: "
            f"{some(map(visible, columns), 8)}"
        )
    rows = [(line, [cells[place] for place in places]) for line, cells in table.rows]
    return TableFile(path, tuple(columns), rows, table.is_named)
