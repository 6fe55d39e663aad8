"""The files of a table and their splits: one file, of which parts are held out, or train.csv and test.csv."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.data.delimited import is_number
from lctprune.data.held_out import hold_out, stratified
from lctprune.data.images.listing import folders_in, has_images
from lctprune.data.tables.encoding import listed
from lctprune.data.tables.files import TableFile, read_table
from lctprune.data.tables.target_column import OTHER_TARGET
from lctprune.errors import DataError, DataWarning
from lctprune.utils.files import sha256
from lctprune.utils.names import visible

TEST_FRACTION = 0.2
LEAST_ROWS = 10
TRAIN_FILE, TEST_FILE = "train.csv", "test.csv"
VALIDATION_FILES = ("val.csv", "valid.csv", "validation.csv", "dev.csv")


class RowSplits(NamedTuple):
    """Indices of the rows of each split, in all files after one another, [n] each."""

    train: Tensor
    val: Tensor
    test: Tensor


def holds_tables(folder: Path) -> bool:
    """Whether a folder has train.csv, and no images, which it would list or describe.

    Raises:
        DataError: it has tables only, but no train.csv.
    """
    tables = sorted(path.name for path in folder.glob("*.[cC][sS][vV]"))
    if not tables or (folder / "train").is_dir():
        return False
    folders = folders_in(folder)
    if has_images(folder) or any(map(has_images, folders.values())):
        return False
    if TRAIN_FILE not in tables and not folders:
        raise DataError(
            f"{folder} has tables, but no {TRAIN_FILE} ({listed(tables)}); rename the one to train on, or give "
            f"`name={folder / tables[0]}`"
        )
    return TRAIN_FILE in tables


def read_tables(config: DataConfig, known: Sequence[str] | None) -> dict[str, TableFile]:
    """Read a table, or those in a folder: train.csv, and test.csv and val.csv where they are.

    Args:
        config: path of the table, or of the folder.
        known: names of the input columns by which a run knows the first of them; see `read_table`.

    Returns:
        The tables by what they hold, the one with the training rows first.

    Raises:
        DataError: a file cannot be read, or has no rows.
    """
    path = Path(config.name)
    if config.is_table:
        paths = {"train": path}
    else:
        names = {"train": [TRAIN_FILE], "val": VALIDATION_FILES, "test": [TEST_FILE]}
        found = {split: [path / name for name in files if (path / name).is_file()] for split, files in names.items()}
        paths = {split: files[0] for split, files in found.items() if files}
    first = read_table(paths["train"], known=known)
    # beside a table with names, a first line always holds names: one that misses a column is no row
    others = {name: read_table(paths[name], known=() if first.is_named else None) for name in paths if name != "train"}
    for table in others.values():
        if not table.rows:
            raise DataError(f"{table.path} has no rows below the names of its columns; add some, or remove the file")
    return {"train": first, **others}


def require_alike(tables: Mapping[str, TableFile], target: str) -> None:
    """Require the column to predict in every file, and warn of columns that only the others have.

    Raises:
        DataError: a file has no such column.
    """
    first, *others = tables.values()
    for table in others:
        if target not in table.names:
            raise DataError(
                f"{table.path} has no column {visible(target)}, which is to be predicted (it has "
                f"{listed(table.names)}); add it, or give `name={first.path}`, of which a fifth is then the test split"
            )
        if further := [name for name in table.names if name not in first.names]:
            text = f"{table.path} has columns that {first.path.name} has not, which are not read: {listed(further)}"
            warnings.warn(text, DataWarning, stacklevel=4)


def fingerprint_of(tables: Mapping[str, TableFile]) -> str:
    """Return the hash of the file, or of the hashes of several."""
    hashes = [sha256(table.path) for table in tables.values()]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def split_rows(
    tables: Mapping[str, TableFile], targets: Tensor, config: DataConfig, label: str, classes: Sequence[str] = ()
) -> RowSplits:
    """Divide the rows: by file, or else by holding out a part, always the same fifth for the test split.

    Args:
        tables: tables by what they hold.
        targets: targets of their rows, one table after the other, [rows].
        config: fraction and seed of the validation split.
        label: what messages call the column of the targets.
        classes: names of the classes; none of a regression.

    Raises:
        DataError: there are too few rows, or too few of a class.
    """
    sizes = [len(table.rows) for table in tables.values()]
    parts = dict(zip(tables, torch.split(torch.arange(len(targets)), sizes), strict=True))
    train = parts["train"]
    if "test" not in parts:
        kept, held_out = _held_out(targets[train], TEST_FRACTION, 0, label, classes)
        train, parts["test"] = train[kept], train[held_out]
    if "val" not in parts:
        kept, held_out = _held_out(targets[train], config.val_fraction, config.seed, label, classes)
        train, parts["val"] = train[kept], train[held_out]
    return RowSplits(train, parts["val"], parts["test"])


def _held_out(targets: Tensor, fraction: float, seed: int, label: str, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the indices of the larger and of the held-out part, balanced by class where there are classes."""
    if not targets.is_floating_point():
        counts = targets.bincount()
        is_continuous = 2 * len(counts) > len(targets)
        draw = stratified if is_continuous else hold_out  # many classes of few rows are rather numbers
        if is_continuous and all(map(is_number, classes)):
            remedy = "give `task=regression`"
        elif is_continuous:
            remedy = "it is rather a name of each row than a class: add rows of the same classes"
        else:
            remedy = "add rows, or remove rare classes"
        return draw(targets, fraction, seed, remedy=f"{label} is predicted: {remedy}, or {OTHER_TARGET}")
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    count = max(2, round(fraction * len(targets)))  # one sample has no variance to explain
    if count >= len(targets):
        raise DataError(
            f"{len(targets)} rows are too few to hold out {fraction:.0%} of them; add rows, or hold out less"
        )
    return order[count:].sort().values, order[:count].sort().values
