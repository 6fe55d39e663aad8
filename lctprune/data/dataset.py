"""A data set: its three splits, what is known of them, and which settings they came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from lctprune.config import setting
from lctprune.data.splits import Normalization, Split
from lctprune.errors import ConfigError

AUGMENTATIONS = ("auto", "none", "crop", "crop-flip")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, and how it is split: what a run remembers of it.

    Raises:
        ConfigError: a value is out of range.
    """

    name: str = setting(
        "digits",
        "digits, digits-rows, cifar10, cifar100, fashion-mnist; a folder with train/ and test/ of images, or with "
        "train.tsv and test.tsv of sentences; or a table, FILE.csv.",
    )
    data_dir: str = setting("data", "Where torchvision's data sets are kept.")
    image_size: int | None = setting(None, "Side of an image in pixels; by default the data set's own.")
    augment: str = setting("auto", "Training augmentation: auto, none, crop or crop-flip.")
    shift: float = setting(
        1 / 16,
        "Farthest that a crop of an image up to 96 pixels moves it, as a share of its side; 0.125 is usual for long "
        "trainings.",
    )
    val_fraction: float = setting(0.1, "Share of the training samples held out for validation.")
    task: str = setting("classification", "classification; or regression, of a table.")
    target: str | None = setting(None, "Column of a table that is to be predicted; by default the last.")
    max_length: int = setting(64, "Words of a sentence that are kept.")
    seed: int = setting(0, "Seed of the validation split.")

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 8:
            raise ConfigError(f"image size is {self.image_size}; it must be at least 8 pixels")
        if self.augment not in AUGMENTATIONS:
            raise ConfigError(f"augment is {self.augment!r}; it must be one of {', '.join(AUGMENTATIONS)}")
        if not 0 < self.shift <= 0.5:
            raise ConfigError(
                f"shift is {self.shift}; it must be greater than 0 and at most 0.5 (--augment: none at all)"
            )
        if not 0 < self.val_fraction < 1:
            raise ConfigError(f"val_fraction is {self.val_fraction}; it must lie between 0 and 1")
        if self.task not in ("classification", "regression"):
            raise ConfigError(f"task is {self.task!r}; it must be classification or regression")
        if self.task == "regression" and not self.is_table:
            raise ConfigError(f"regression needs a table, FILE.csv; the data is {self.name!r}")
        if self.target is not None and not self.is_table:
            raise ConfigError(f"target is {self.target!r}, a column of a table; but the data is {self.name!r}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"data seed is {self.seed}; it must lie between 0 and 2**32 - 1")
        if self.max_length < 1:
            raise ConfigError(f"max_length is {self.max_length}; it must be at least 1")

    @property
    def is_table(self) -> bool:
        return self.name.lower().endswith(".csv")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Three splits of one data set, preprocessed alike.

    Attributes:
        train, val, test: the splits.
        classes: names of the classes, in the order of the labels; empty in a regression.
        normalization: of the pixels or of the columns, in all splits.
        resize: the shorter side to which images are resized before their centre is taken.
        fingerprint: hash of the files' names in their order, or of the content; None for data that is in no file.
        config: where it came from; None for data made from tensors.
        vocabulary: words of a text, by their numbers.
        columns: names of a table's columns that go in.
        target_normalization: mean and deviation of a regression's target; networks predict the standardised one.
        typical: an input of typical length, where inputs differ in length.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    normalization: Normalization | None = None
    resize: int | None = None
    fingerprint: str | None = None
    config: DataConfig | None = None
    vocabulary: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    target_normalization: Normalization | None = None
    typical: Tensor | None = None

    @property
    def num_outputs(self) -> int:
        """Width of a network's output."""
        return len(self.classes) or 1

    @property
    def example(self) -> Tensor:
        """One preprocessed validation sample, [1, ...]."""
        if self.typical is not None:
            return self.typical
        inputs, _ = next(self.val.batches(1))
        return inputs


def data_settings(data: Data) -> dict[str, Any] | None:
    """What config.json says of the data; None for data made in a program."""
    if data.config is None:
        return None
    normalization = data.normalization or Normalization((), ())
    return {
        "config": dataclasses.asdict(data.config),
        "classes": list(data.classes),
        "samples": split_sizes(data),
        "fingerprint": data.fingerprint,
        "resize": data.resize,
        **_statistics(normalization),
        "vocabulary": list(data.vocabulary),
        "columns": list(data.columns),
        "target": data.target_normalization and _statistics(data.target_normalization),
    }


def _statistics(normalization: Normalization) -> dict[str, list[float]]:
    return {"mean": list(normalization.mean), "std": list(normalization.std)}


def split_sizes(data: Data) -> dict[str, int]:
    """Number of samples of each split."""
    return {"train": len(data.train.targets), "val": len(data.val.targets), "test": len(data.test.targets)}


class Statistics(NamedTuple):
    """What `load_data` normalises by, of inputs and of a regression's target; None: the training split's own."""

    normalization: Normalization | None = None
    target_normalization: Normalization | None = None


def recorded_statistics(recorded: Mapping[str, Any]) -> Statistics:
    """Those of a run's data, as `data_settings` recorded them."""
    return Statistics(_read(recorded), _read(recorded.get("target") or {}))


def _read(recorded: Mapping[str, Any]) -> Normalization | None:
    mean, std = (tuple(recorded.get(name, ())) for name in ("mean", "std"))
    return Normalization(mean, std) if mean else None
