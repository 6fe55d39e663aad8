"""A data set: its three splits, what is known about them, and how a run records that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.config.images import ImagePreprocessing
from lctprune.config.run import DataRecord, StatisticsRecord
from lctprune.config.table import TableEncoding
from lctprune.data.preprocessing import Normalization
from lctprune.data.splits import Split, sample_count
from lctprune.data.tokens import FIRST_TOKENIZER


@dataclass(frozen=True, kw_only=True, repr=False)
class Data:
    """A data set: its three splits, preprocessed alike, and what is known about them.

    Attributes:
        train: samples to train on.
        val: samples that exits are measured on, to choose between them.
        test: samples that only the chosen exit is measured on.
        classes: names of the classes, in the order of the labels; empty for a regression.
        normalization: mean and deviation of the pixels' channels or of a table's columns, in all splits.
        preprocessing: steps from an image file to pixels; None for data that is not images.
        fingerprint: hash of the files' names in their order, or of the content; None for data without files.
        config: settings that the data was loaded with; None for data made in a program.
        vocabulary: words of a text, in the order of their ids.
        tokenizer: name of the rule that splits a text into tokens; None for data that is no text.
        columns: names of the numbers that a table's rows become.
        encoding: how the cells of a table become numbers; None for data that is no table, or one of numbers.
        target_normalization: mean and deviation of a regression's target; networks predict the standardised target.
        typical: input of typical length, [1, ...], where inputs differ in length.
        val_from_train: whether the validation split was cut from samples that are given for training.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    normalization: Normalization | None = None
    preprocessing: ImagePreprocessing | None = None
    fingerprint: str | None = None
    config: DataConfig | None = None
    vocabulary: tuple[str, ...] = ()
    tokenizer: str | None = None
    columns: tuple[str, ...] = ()
    encoding: TableEncoding | None = None
    target_normalization: Normalization | None = None
    typical: Tensor | None = None
    val_from_train: bool = False

    def __repr__(self) -> str:
        sizes = ", ".join(f"{count} {name}" for name, count in split_sizes(self).items())
        outputs = f"{len(self.classes)} classes" if self.classes else "regression"
        return f"Data({self.config.name if self.config else 'made in a program'}: {sizes} samples, {outputs})"

    @property
    def num_outputs(self) -> int:
        """Width of a network's output."""
        return len(self.classes) or 1

    @property
    def resize(self) -> int | None:
        """Length in pixels to which the shorter side of an image is resized; None for data that is not images."""
        return None if self.preprocessing is None else self.preprocessing.shorter_side

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
        mean=tuple(normalization.mean),
        std=tuple(normalization.std),
        vocabulary=data.vocabulary,
        columns=data.columns,
        encoding=data.encoding,
        preprocessing=data.preprocessing,
        tokenizer=None if data.tokenizer == FIRST_TOKENIZER else data.tokenizer,  # as earlier versions wrote it
        target=target and StatisticsRecord(mean=tuple(target.mean), std=tuple(target.std)),
    )


def split_sizes(data: Data) -> dict[str, int]:
    """Return the number of samples of each split."""
    return {name: sample_count(getattr(data, name)) for name in ("train", "val", "test")}


class Statistics(NamedTuple):
    """What a run recorded of its data, to read and normalise it again alike; None for what the training split says.

    Attributes:
        normalization: mean and deviation of the inputs.
        target_normalization: mean and deviation of a regression's target.
        preprocessing: steps from an image file to pixels.
        tokenizer: name of the rule that splits text into tokens; None for the present one.
        columns: names of a table's input columns; None if the table is not known.
        encoding: how the cells of a table become numbers; None for one of numbers.
    """

    normalization: Normalization | None = None
    target_normalization: Normalization | None = None
    preprocessing: ImagePreprocessing | None = None
    tokenizer: str | None = None
    columns: tuple[str, ...] | None = None
    encoding: TableEncoding | None = None


def recorded_statistics(recorded: DataRecord | None) -> Statistics:
    """Return how a run's data was read and normalised."""
    if recorded is None:
        return Statistics()
    encoding = recorded.encoding
    return Statistics(
        normalization=_normalization(recorded),
        target_normalization=_normalization(recorded.target) if recorded.target else None,
        preprocessing=recorded.preprocessing,
        tokenizer=recorded.tokenizer or FIRST_TOKENIZER,
        columns=(encoding and tuple(column.name for column in encoding.columns)) or recorded.columns or None,
        encoding=encoding,
    )


def _normalization(recorded: DataRecord | StatisticsRecord) -> Normalization | None:
    return Normalization(recorded.mean, recorded.std) if recorded.mean else None
