"""A table of numbers as a data set: a file of columns, one of which is to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.data.dataset import Data
from lctprune.data.held_out import hold_out, stratified
from lctprune.data.preprocessing import Normalization
from lctprune.data.table_cells import column_label, numbers_of, refuse_distant, warn_of_row_numbers
from lctprune.data.table_files import TableFile, read_table
from lctprune.data.target_column import OTHER_TARGET, target_column
from lctprune.data.tensor_split import TensorSplit
from lctprune.errors import DataError
from lctprune.utils.files import sha256
from lctprune.utils.names import visible

TEST_FRACTION = 0.2
LEAST_ROWS = 10
TINY = 1e-140


def table_data(
    config: DataConfig,
    normalization: Normalization | None = None,
    target_normalization: Normalization | None = None,
    *,
    known: Sequence[str] | None = None,
) -> Data:
    """Load a table's rows, one column of which is to be predicted; a fifth, always the same, is the test split.

    Columns, and the target of a regression, are standardised by the given mean and deviation, or else by those of the
    training split.

    Args:
        config: path of the table, its target and task, and the validation split.
        normalization: mean and deviation of each input column.
        target_normalization: mean and deviation of a regression's target.
        known: names of the input columns by which a run knows this table; see `read_table`.

    Raises:
        DataError: the file is missing, malformed or too small, has no such column, or has another number of columns
            than `normalization`.
    """
    path = Path(config.name)
    table = read_table(path, known=known)
    if len(table.rows) < LEAST_ROWS:
        raise DataError(f"{path} has {len(table.rows)} rows; three splits need at least {LEAST_ROWS}")
    position = target_column(table, config.target, known)
    target = table.names[position]
    inputs = numbers_of(table, [index for index in range(len(table.names)) if index != position], config.target)
    columns = tuple(name for name in table.names if name != target)
    if known is None:
        warn_of_row_numbers(table, columns, inputs)
    is_regression = config.task == "regression"
    targets, classes = _values(table, position) if is_regression else _labels(table, position)
    label = column_label(table, position)
    train, test = _held_out(targets, TEST_FRACTION, 0, label)
    inner, val_part = _held_out(targets[train], config.val_fraction, config.seed, label)
    train, val = train[inner], train[val_part]
    if normalization and len(normalization.mean) != len(columns):
        raise DataError(
            f"{path} has {len(columns)} columns besides {visible(target)}; the network expects "
            f"{len(normalization.mean)}"
        )
    normalization = normalization or _statistics(inputs[train])
    if is_regression:
        target_normalization = target_normalization or _statistics(targets[train, None])
        targets = standardized(targets[:, None], target_normalization)
        refuse_distant(table, [target], targets, target_normalization)
    inputs = standardized(inputs, normalization)
    refuse_distant(table, columns, inputs, normalization)
    return Data(
        train=TensorSplit(inputs[train], targets[train]),
        val=TensorSplit(inputs[val], targets[val]),
        test=TensorSplit(inputs[test], targets[test]),
        classes=classes,
        normalization=normalization,
        fingerprint=sha256(path),
        config=config,
        columns=columns,
        target_normalization=target_normalization if is_regression else None,
        val_from_train=True,
    )


def _values(table: TableFile, position: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return the numbers to predict, [rows], and no classes."""
    values = numbers_of(table, [position], table.names[position])[:, 0]
    if (values == values[0]).all():
        raise DataError(
            f"{table.path}: {column_label(table, position)} is always {values[0]:g}; a regression needs targets that "
            f"differ: {OTHER_TARGET}"
        )
    return values, ()


def _labels(table: TableFile, position: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return class numbers, [rows], and the names of the classes in their order."""
    texts, label = [cells[position].strip() for _, cells in table.rows], column_label(table, position)
    for (line, _), text in zip(table.rows, texts, strict=True):
        if not text:
            raise DataError(
                f"{table.path}, line {line}: {label} is empty; it must be the name of a class, or {OTHER_TARGET}"
            )
    classes = tuple(sorted(set(texts)))
    if len(classes) < 2:
        raise DataError(
            f"{table.path} has only one class: {label} is always {texts[0]!r}; classification needs at least 2: "
            f"{OTHER_TARGET}"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[text] for text in texts]), classes


def _held_out(targets: Tensor, fraction: float, seed: int, label: str) -> tuple[Tensor, Tensor]:
    """Return the indices of the larger and of the held-out part, balanced by class where there are classes."""
    if not targets.is_floating_point():
        counts = targets.bincount()
        is_continuous = 2 * len(counts) > len(targets)
        remedy = "give --task regression" if is_continuous else "add rows, or remove rare classes"
        draw = stratified if is_continuous else hold_out  # many classes of few rows are rather numbers
        return draw(targets, fraction, seed, remedy=f"{label} is predicted: {remedy}, or {OTHER_TARGET}")
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    count = max(2, round(fraction * len(targets)))  # one sample has no variance to explain
    if count >= len(targets):
        raise DataError(
            f"{len(targets)} rows are too few to hold out {fraction:.0%} of them; add rows, or hold out less"
        )
    return order[count:].sort().values, order[:count].sort().values


def _statistics(values: Tensor) -> Normalization:
    """Return mean and deviation of each column of [rows, columns]; the deviation of a constant column is 1."""
    is_constant = (values == values[0]).all(0)
    std = values.std(0, correction=0)
    reach = (values - values.mean(0)).abs().amax(0)
    scaled = reach * (values / reach - (values / reach).mean(0)).std(0, correction=0)
    std = std.where((std > TINY) & (std < 1 / TINY), scaled)  # squares of such numbers leave the range of the format
    std = torch.where(is_constant, 1.0, std)
    return Normalization(tuple(values.mean(0).tolist()), tuple(std.tolist()))


def standardized(values: Tensor, normalization: Normalization) -> Tensor:
    """Subtract the mean of each column of float64 [rows, columns], and divide by its deviation; as float32."""
    mean, std = (torch.tensor(statistic, dtype=torch.float64) for statistic in normalization)
    return ((values - mean) / std).float()  # single precision comes last: large numbers may differ little
