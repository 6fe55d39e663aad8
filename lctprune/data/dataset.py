"""A data set: its three splits, what is known of them, and which settings they came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.data.splits import Augmentation, Normalization, Split

NO_FLIP = {"digits"}  # a mirrored digit is not a digit


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


def augmentation_of(config: DataConfig, size: int) -> Augmentation:
    kind = config.augment
    if kind == "auto":
        kind = "crop" if config.name in NO_FLIP else "crop-flip"
    crop = max(1, round(size * config.shift))
    return Augmentation(crop=0 if kind == "none" else crop, flip=kind == "crop-flip")
