"""A table as a data set: columns of numbers, dates and texts, one of which is to be predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.config.table import TableEncoding
from lctprune.data.dataset import Data
from lctprune.data.packed.shards import Shards
from lctprune.data.preprocessing import Normalization
from lctprune.data.tables.cells import column_label, numbers_of, plain_numbers, refuse_distant, warn_of_row_numbers
from lctprune.data.tables.encoding import encode, require_columns, sources_of, standardized
from lctprune.data.tables.files import TableFile
from lctprune.data.tables.fitting import fit_encoding
from lctprune.data.tables.packed import packed_tables, table_fingerprint
from lctprune.data.tables.splits import LEAST_ROWS, fingerprint_of, read_tables, require_alike, split_rows
from lctprune.data.tables.target_column import OTHER_TARGET, target_column
from lctprune.data.tensor_split import TensorSplit
from lctprune.errors import DataError
from lctprune.utils.names import visible

TINY = 1e-140


def table_data(
    config: DataConfig,
    normalization: Normalization | None = None,
    target_normalization: Normalization | None = None,
    *,
    known: Sequence[str] | None = None,
    encoding: TableEncoding | None = None,
    shards: Shards | None = None,
) -> Data:
    """Load the rows of a table, or of train.csv and test.csv in a folder, one column of which is to be predicted.

    Of a single table a fifth, always the same, is the test split. Columns, and the target of a regression, are
    standardised by the given mean and deviation, or else by those of the training split. A table that does not only
    hold numbers is encoded, as the training split's rows suggest.

    Args:
        config: path of the table or the folder, its target and task, and the validation split.
        normalization: mean and deviation of each input column.
        target_normalization: mean and deviation of a regression's target.
        known: names of the input columns by which a run knows this table; see `read_table`.
        encoding: encoding by which a run knows this table; None for one of numbers.
        shards: Parquet or Arrow files that hold the rows instead, of each split or of all.

    Raises:
        DataError: a file is missing, malformed or too small, has no such column, or has another number of columns than
            `normalization`.
    """
    tables = packed_tables(shards) if shards else read_tables(config, known)
    first, *_ = tables.values()
    if len(first.rows) < LEAST_ROWS:
        raise DataError(f"{first.path} has {len(first.rows)} rows; three splits need at least {LEAST_ROWS}")
    position = target_column(first, config.target, known)
    target, is_regression = first.names[position], config.task == "regression"
    require_alike(tables, target)
    targets, classes = _values(tables, target) if is_regression else _labels(tables, target)
    rows = split_rows(tables, targets, config, column_label(first, position), classes)
    columns = tuple(name for name in first.names if name != target)
    values = None if encoding else _plain(tables, columns, is_known=known is not None)
    if values is None:
        encoding = encoding or fit_encoding(first, columns, rows.train)
        values = _encoded(tables, encoding)
    sources: Sequence[str] = sources_of(encoding) if encoding else columns
    normalization = normalization or _statistics(values[rows.train], encoding)
    _require_width(normalization, len(sources), config.name, target)
    if is_regression:
        target_normalization = target_normalization or _statistics(targets[rows.train, None])
        targets = standardized(targets[:, None], target_normalization)
        _refuse_distant(tables, [target], targets, target_normalization)
    values = standardized(values, normalization)
    _refuse_distant(tables, sources, values, normalization)
    return Data(
        train=TensorSplit(values[rows.train], targets[rows.train]),
        val=TensorSplit(values[rows.val], targets[rows.val]),
        test=TensorSplit(values[rows.test], targets[rows.test]),
        classes=classes,
        normalization=normalization,
        fingerprint=table_fingerprint(shards) if shards else fingerprint_of(tables),
        config=config,
        columns=encoding.names if encoding else columns,
        encoding=encoding,
        target_normalization=target_normalization if is_regression else None,
        val_from_train="val" not in tables,
    )


def _require_width(normalization: Normalization, width: int, name: str, target: str) -> None:
    if len(normalization.mean) != width:
        raise DataError(
            f"{name} has {width} columns besides {visible(target)}; the network expects {len(normalization.mean)}"
        )


def _plain(tables: Mapping[str, TableFile], columns: Sequence[str], *, is_known: bool) -> Tensor | None:
    """Return the cells of tables of numbers, [rows, columns]; None if they hold something else.

    A table that a run knows as one of numbers must still be one.
    """
    if not all(columns) or not all({*columns} <= {*table.names} for table in tables.values()):
        return None  # a column without a name is left out
    read = numbers_of if is_known else plain_numbers
    parts = []
    for table in tables.values():
        places = table.places
        parts.append(read(table, [places[name] for name in columns]))
    values = [part for part in parts if part is not None]
    if len(values) < len(parts):
        return None
    if not is_known:
        warn_of_row_numbers(tables["train"], columns, values[0])
    return torch.cat(values)


def _encoded(tables: Mapping[str, TableFile], encoding: TableEncoding) -> Tensor:
    for table in tables.values():
        require_columns(table, [column.name for column in encoding.used])
    return torch.cat([encode(encoding, table) for table in tables.values()])


def _refuse_distant(
    tables: Mapping[str, TableFile], columns: Sequence[str], values: Tensor, normalization: Normalization
) -> None:
    sizes = [len(table.rows) for table in tables.values()]
    for table, part in zip(tables.values(), torch.split(values, sizes), strict=True):
        refuse_distant(table, columns, part, normalization)


def _values(tables: Mapping[str, TableFile], target: str) -> tuple[Tensor, tuple[str, ...]]:
    """Return the numbers to predict, [rows], and no classes."""
    parts = [numbers_of(table, [table.names.index(target)])[:, 0] for table in tables.values()]
    table, values = tables["train"], parts[0]
    if (values == values[0]).all():
        raise DataError(
            f"{table.path}: {column_label(table, table.names.index(target))} is always {values[0]:g}; a regression "
            f"needs targets that differ: {OTHER_TARGET}"
        )
    return torch.cat(parts), ()


def _labels(tables: Mapping[str, TableFile], target: str) -> tuple[Tensor, tuple[str, ...]]:
    """Return class numbers, [rows], and the names of the classes of the first table in their order."""
    texts = {name: _class_names(table, target) for name, table in tables.items()}
    first, table = texts["train"], tables["train"]
    classes = tuple(sorted(set(first)))
    if len(classes) < 2:
        raise DataError(
            f"{table.path} has only one class: {column_label(table, table.names.index(target))} is always "
            f"{first[0]!r}; classification needs at least 2: {OTHER_TARGET}"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    for name, labels in texts.items():
        for (line, _), label in zip(tables[name].rows, labels, strict=True):
            if label not in numbers:
                raise DataError(
                    f"{tables[name].path}, line {line}: {visible(target)} is {label!r}, which does not occur in "
                    f"{table.path.name}; add rows of it there, or remove it here"
                )
    return torch.tensor([numbers[label] for labels in texts.values() for label in labels]), classes


def _class_names(table: TableFile, target: str) -> list[str]:
    position = table.names.index(target)
    texts = [cells[position].strip() for _, cells in table.rows]
    for (line, _), text in zip(table.rows, texts, strict=True):
        if not text:
            raise DataError(
                f"{table.path}, line {line}: {column_label(table, position)} is empty; it must be the name of a class: "
                f"fill it in, remove the row, or {OTHER_TARGET}"
            )
    return texts


def _statistics(values: Tensor, encoding: TableEncoding | None = None) -> Normalization:
    """Return mean and deviation of each column of [rows, columns]; the deviation of a constant column is 1.

    Columns of 0 and 1 that an encoding makes, one per category or of gaps, stay as they are: mean 0, deviation 1.
    """
    is_constant = (values == values[0]).all(0)
    std = values.std(0, correction=0)
    reach = (values - values.mean(0)).abs().amax(0)
    scaled = reach * (values / reach - (values / reach).mean(0)).std(0, correction=0)
    std = std.where((std > TINY) & (std < 1 / TINY), scaled)  # squares of such numbers leave the range of the format
    std = torch.where(is_constant, 1.0, std)
    mean = values.mean(0)
    if encoding is not None:
        is_mark = ~torch.tensor([name == column.name for column in encoding.used for name in column.names])
        mean, std = torch.where(is_mark, 0.0, mean), torch.where(is_mark, 1.0, std)
    return Normalization(tuple(mean.tolist()), tuple(std.tolist()))
