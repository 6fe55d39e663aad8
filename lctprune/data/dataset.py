"""A data set: its three splits, what is known of them, and which settings they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.config.run import DataRecord, StatisticsRecord
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


def data_record(data: Data) -> DataRecord | None:
    """Return what a run remembers of the data; None for data made in a program."""
    if data.config is None:
        return None
    normalization, target = data.normalization or Normalization((), ()), data.target_normalization
    return DataRecord(
        config=data.config,
        classes=data.classes,
        samples=split_sizes(data),
        fingerprint=data.fingerprint,
        resize=data.resize,
        mean=tuple(normalization.mean),
        std=tuple(normalization.std),
        vocabulary=data.vocabulary,
        columns=data.columns,
        target=target and StatisticsRecord(mean=tuple(target.mean), std=tuple(target.std)),
    )


def split_sizes(data: Data) -> dict[str, int]:
    """Number of samples of each split."""
    return {"train": len(data.train.targets), "val": len(data.val.targets), "test": len(data.test.targets)}


class Statistics(NamedTuple):
    """What `load_data` normalises by, of inputs and of a regression's target; None: the training split's own."""

    normalization: Normalization | None = None
    target_normalization: Normalization | None = None


def recorded_statistics(recorded: DataRecord | None) -> Statistics:
    """Return the statistics that a run's data was normalised by."""
    if recorded is None:
        return Statistics()
    return Statistics(_normalization(recorded), _normalization(recorded.target) if recorded.target else None)


def _normalization(recorded: DataRecord | StatisticsRecord) -> Normalization | None:
    return Normalization(recorded.mean, recorded.std) if recorded.mean else None


def augmentation_of(config: DataConfig, size: int) -> Augmentation:
    kind = config.augment
    if kind == "auto":
        kind = "crop" if config.name in NO_FLIP else "crop-flip"
    crop = max(1, round(size * config.shift))
    return Augmentation(crop=0 if kind == "none" else crop, flip=kind == "crop-flip")
