"""A table of numbers as a data set: a CSV file whose first line names the columns."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.data.dataset import Data
from lctprune.data.held_out import stratified
from lctprune.data.preprocessing import Normalization
from lctprune.data.tensor_split import TensorSplit
from lctprune.errors import DataError
from lctprune.utils.files import sha256

TEST_FRACTION = 0.2
LEAST_ROWS = 10
TINY = 1e-140


def table_data(
    config: DataConfig,
    normalization: Normalization | None = None,
    target_normalization: Normalization | None = None,
) -> Data:
    """Load a table's rows, one column of which is to be predicted; a fifth, always the same, is the test split.

    Columns, and the target of a regression, are standardised by the given mean and deviation, or else by those of the
    training split.

    Raises:
        DataError: the file is missing, malformed or too small, has no such column, or has another number of columns
            than `normalization`.
    """
    path = Path(config.name)
    header, rows = _read(path)
    target = config.target or header[-1]
    if target not in header:
        raise DataError(f"{path} has no column {target!r}; it has {', '.join(header)}")
    position = header.index(target)
    columns = tuple(name for name in header if name != target)
    inputs = torch.tensor(
        [_numbers(path, line, header, row, position) for line, row in rows], dtype=torch.float64
    )  # [rows, columns]
    texts = [row[position].strip() for _, row in rows]
    is_regression = config.task == "regression"
    classes = () if is_regression else tuple(sorted(set(texts)))
    if is_regression:
        values = [_number(path, line, target, text) for (line, _), text in zip(rows, texts, strict=True)]
        if len(set(values)) < 2:
            raise DataError(f"{path}: {target} is always {values[0]:g}; a regression needs targets that differ")
        targets = torch.tensor(values, dtype=torch.float64)
    else:
        _check_classes(path, target, rows, texts)
        numbers = {name: number for number, name in enumerate(classes)}
        targets = torch.tensor([numbers[text] for text in texts])
    train, test = _held_out(targets, TEST_FRACTION, 0)
    inner, val_part = _held_out(targets[train], config.val_fraction, config.seed)
    train, val = train[inner], train[val_part]
    if normalization and len(normalization.mean) != len(columns):
        raise DataError(
            f"{path} has {len(columns)} columns besides {target}; the network expects {len(normalization.mean)}"
        )
    normalization = normalization or _statistics(inputs[train])
    if is_regression:
        target_normalization = target_normalization or _statistics(targets[train, None])
        targets = _standardized(targets[:, None], target_normalization)
    inputs = _standardized(inputs, normalization)
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
    )


_Rows = list[tuple[int, list[str]]]  # line in the file, cells


def _read(path: Path) -> tuple[list[str], _Rows]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the table {path} cannot be read ({error})") from error
    if len(header) < 2 or len(set(header)) < len(header) or not all(header):
        raise DataError(
            f"{path} must begin with a line of at least 2 different column names, separated by commas, not "
            f"{','.join(header)!r}"
        )
    if len(rows) < LEAST_ROWS:
        raise DataError(f"{path} has {len(rows)} rows; three splits need at least {LEAST_ROWS}")
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}, line {line} has {len(row)} cells; the header has {len(header)}")
    return header, rows


def _numbers(path: Path, line: int, header: Sequence[str], row: Sequence[str], target: int) -> list[float]:
    return [
        _number(path, line, name, cell)
        for index, (name, cell) in enumerate(zip(header, row, strict=True))
        if index != target
    ]


def _number(path: Path, line: int, name: str, cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{path}, line {line}: {name} is {cell!r}; it must be a number")
    return number


def _check_classes(path: Path, target: str, rows: _Rows, texts: Sequence[str]) -> None:
    for (line, _), text in zip(rows, texts, strict=True):
        if not text:
            raise DataError(f"{path}, line {line}: {target} is empty; it must be the name of a class")
    if len(set(texts)) < 2:
        raise DataError(f"{path} has only one class: {target} is always {texts[0]!r}; classification needs at least 2")


def _held_out(targets: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the larger and of the held-out part, balanced by class where there are classes."""
    if not targets.is_floating_point():
        counts = targets.bincount()
        remedy = "give --task regression" if 2 * len(counts) > len(targets) else "add rows, or remove rare classes"
        return stratified(targets, fraction, seed, remedy=remedy)
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


def _standardized(values: Tensor, normalization: Normalization) -> Tensor:
    mean, std = (torch.tensor(statistic, dtype=torch.float64) for statistic in normalization)
    return ((values - mean) / std).float()  # single precision comes last: large numbers may differ little
