"""Number the classes of packed samples: labels are names, numbers, or numbers of names that the data set tells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.data.images.listing import nfc, some
from lctprune.errors import DataError, DataWarning
from lctprune.utils.names import is_text
from lctprune.utils.wording import counted

Value = str | int | None  # None, and -1 where classes have names, is no label


class Labels(NamedTuple):
    """Labels of a split.

    Attributes:
        values: those that occur, once each.
        codes: index among the values for each sample, [n].
    """

    values: Sequence[Value]
    codes: Tensor

    @classmethod
    def of(cls, labels: Sequence[Value]) -> Labels:
        """Collect the labels of samples."""
        numbers = {value: number for number, value in enumerate(dict.fromkeys(labels))}
        return cls([*numbers], torch.tensor([numbers[label] for label in labels], dtype=torch.int64))


def numbered_classes(
    source: Path, splits: Mapping[str, Labels], names: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Return the names of the classes in their order, and the class numbers of each split that has labels.

    Classes are those of the training split: in the order of `names`, or else numbers by size and text as text.

    Args:
        source: folder or file, for messages.
        splits: labels of each split, or of "all".
        names: names of the classes by their numbers, if the data set tells them.

    Raises:
        DataError: a sample of a labelled split has no label, or one that no training sample has; or there are fewer
            than two classes.

    Warns:
        DataWarning: a split has no labels, or a named class no training samples; they are left out.
    """
    known = {split: _named(source, split, labels, names) for split, labels in splits.items()}
    for split in sorted(known.keys() - {"train", "all"}):
        if set(known[split].values) == {None}:
            warnings.warn(f"{source}: the {split} split has no labels and is left out", DataWarning, stacklevel=5)
            del known[split]
    train = known.get("train") or known["all"]
    found = {value for value in train.values if value is not None}
    if len(found) < 2:
        shown = f" ({some(map(str, found))})" if found else ""
        raise DataError(f"{source} has {counted(len(found), 'class')}{shown}; classification needs at least 2")
    order: list[str | int] = [name for name in names if name in found] if names else _sorted(found)
    if odd := [name for name in order if isinstance(name, str) and not is_text(name)]:
        raise DataError(f"{source}: {odd[0]!r} is no name for a class (it holds what is no text); rename it")
    if names and len(order) < len(names):
        left = some([name for name in names if name not in found])
        text = (
            f"{source}: {len(names) - len(order)} of {len(names)} classes have no training samples ({left}); left out"
        )
        warnings.warn(text, DataWarning, stacklevel=5)
    numbers = {value: number for number, value in enumerate(order)}
    targets = {}
    for split, labels in known.items():
        for position, value in enumerate(labels.values):
            if value is None or value not in numbers:
                row = int((labels.codes == position).nonzero()[0])
                what = "has no label" if value is None else f"has the label {value!r}, which no training sample has"
                raise DataError(f"{source}: sample {row} of {split} {what}; correct or remove it")
        targets[split] = torch.tensor([numbers[value] for value in labels.values if value is not None])[labels.codes]
    return tuple(map(str, order)), targets


def _named(source: Path, split: str, labels: Labels, names: Sequence[str]) -> Labels:
    """Replace numbers by the names of their classes, and text by its composed form.

    Raises:
        DataError: a number has no name.
    """
    values: list[Value] = []
    for value in labels.values:
        if names and isinstance(value, int) and value != -1:
            if not 0 <= value < len(names):
                raise DataError(f"{source}: {split} has the label {value}, but there are names of {len(names)} classes")
            values.append(names[value])
        elif value == -1 and (names or len(labels.values) == 1):
            values.append(None)
        else:
            values.append(nfc(value.strip()) or None if isinstance(value, str) else value)
    merged = Labels.of(values)  # names that differ in their form alone are one
    return Labels(merged.values, merged.codes[labels.codes])


def _sorted(values: set[str | int]) -> list[str | int]:
    numbers = sorted(value for value in values if isinstance(value, int))
    return [*numbers, *sorted(value for value in values if isinstance(value, str))]
