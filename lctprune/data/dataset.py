"""A data set: its three splits, what is known about them, and how a run records that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.config.run import DataRecord, StatisticsRecord
from lctprune.data.preprocessing import Normalization
from lctprune.data.splits import Split, sample_count


@dataclass(frozen=True, kw_only=True)
class Data:
    """Three splits of one data set, preprocessed alike.

    Attributes:
        train: split to train on.
        val: split for validation, by which networks are chosen.
        test: split that is read once, for the network that was chosen.
        classes: names of the classes, in the order of the labels; empty for a regression.
        normalization: mean and deviation of the pixels' channels or of a table's columns, in all splits.
        resize: side to which the shorter side of an image is resized before its centre is cropped.
        fingerprint: hash of the files' names in their order, or of the content; None for data without files.
        config: settings that the data was loaded by; None for data made in a program.
        vocabulary: words of a text, in the order of their ids.
        columns: names of a table's input columns.
        target_normalization: mean and deviation of a regression's target; networks predict the standardised target.
        typical: input of typical length, [1, ...], where inputs differ in length.
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
    """Return what config.json records about the data; None for data made in a program."""
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
    """Return the number of samples of each split."""
    return {name: sample_count(getattr(data, name)) for name in ("train", "val", "test")}


class Statistics(NamedTuple):
    """Mean and deviation of the inputs and of a regression's target; None stands for those of the training split."""

    normalization: Normalization | None = None
    target_normalization: Normalization | None = None


def recorded_statistics(recorded: DataRecord | None) -> Statistics:
    """Return the statistics that a run's data was normalised by."""
    if recorded is None:
        return Statistics()
    return Statistics(_normalization(recorded), _normalization(recorded.target) if recorded.target else None)


def _normalization(recorded: DataRecord | StatisticsRecord) -> Normalization | None:
    return Normalization(recorded.mean, recorded.std) if recorded.mean else None
