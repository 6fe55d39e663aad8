"""Rows of Parquet and Arrow files as the cells of a table, which are then read as those of a CSV file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lctprune.data.packed.arrow_files import arrow, read_columns, read_schema, readable
from lctprune.data.packed.kinds import INDEX
from lctprune.data.packed.shards import Shards
from lctprune.data.tables.files import TableFile
from lctprune.errors import DataError
from lctprune.utils.files import sha256
from lctprune.utils.names import visible


def packed_tables(shards: Shards) -> dict[str, TableFile]:
    """Read the rows of each split; those of files that are not split are called train.

    Raises:
        DataError: a file cannot be read, or has other columns than the first; or a column holds neither numbers, nor
            texts, nor dates.
    """
    first = shards.first
    names = [name for name in read_schema(first, shards.kind).columns if not name.startswith(INDEX)]
    if "" in names:
        raise DataError(f"{first}: column {names.index('') + 1} has no name; give it one, or remove it")
    tables = {}
    for split, paths in sorted(shards.splits.items(), key=lambda item: item[0] not in ("train", "all")):
        place = paths[0] if len(paths) == 1 else shards.root
        rows = [row for path in paths for row in _rows(path, shards, names)]
        if not rows:
            raise DataError(f"{place} has no rows; add some, or remove it")
        tables[{"all": "train"}.get(split, split)] = TableFile(place, tuple(names), [*enumerate(rows, 1)], True)
    return tables


def table_fingerprint(shards: Shards) -> str:
    """Return a hash of the files' contents."""
    hashes = [f"{split} {sha256(path)}" for split, paths in sorted(shards.splits.items()) for path in paths]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _rows(path: Path, shards: Shards, names: list[str]) -> Iterator[list[str]]:
    features = read_schema(path, shards.kind)
    if missing := [name for name in names if name not in features.columns]:
        raise DataError(f"{path} has no column {visible(missing[0])}, which other files of {shards.root} have; add it")
    table = read_columns(path, shards.kind, names)
    columns = []
    for name in names:
        with readable(path):
            columns.append(_cells(path, name, table.column(name), dict(enumerate(features.classes.get(name, ())))))
    return map(list, zip(*columns, strict=True))


def _cells(path: Path, name: str, column: Any, classes: Mapping[int, str]) -> list[str]:
    """Return the cells of a column as text; a gap is an empty cell, and the number of a class its name."""
    types = arrow().types
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_boolean(kind):
        return ["" if value is None else str(int(value)) for value in column.to_pylist()]
    if types.is_floating(kind):
        return ["" if value is None or value != value else repr(value) for value in column.to_pylist()]
    if types.is_integer(kind) or types.is_decimal(kind):
        return ["" if value is None else classes.get(value, str(value)) for value in column.to_pylist()]
    if types.is_timestamp(kind):
        column = column.cast(arrow().timestamp("us", kind.tz), safe=False)  # nanoseconds have no type in Python
    if types.is_timestamp(kind) or types.is_date(kind):
        return ["" if value is None else str(value) for value in column.to_pylist()]  # as ISO 8601 writes it
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind):
        return [value or "" for value in column.to_pylist()]
    raise DataError(
        f"{path}: column {visible(name)} holds values of type {kind}; a table has numbers, texts and dates: remove it"
    )
