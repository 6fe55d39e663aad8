"""Splits made of another split; one whose epochs take a part of it, for trainings of less than whole passes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

from torch import Tensor

from lctprune.data.splits import Batch, Split, sample_count


class WrappedSplit(Split):
    """Another split, but for the order or content of its shuffled batches.

    Args:
        split: the split.
    """

    def __init__(self, split: Split) -> None:
        self._split = split

    @property
    def targets(self) -> Tensor:
        """All targets of the split."""
        return self._split.targets

    @property
    def samples(self) -> int:
        """Number of samples in one pass."""
        return sample_count(self._split)

    def on_device(self, device: str) -> Split:
        """Return this split with the other one prepared on a device."""
        there = copy.copy(self)
        there._split = self._split.on_device(device)
        return there

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Return the batches of the split."""
        return self._split.batches(batch_size)


class PartSplit(WrappedSplit):
    """A split of whose shuffled samples an epoch takes only the first: another part in every epoch.

    Args:
        split: the whole split.
        part: fraction of its samples, more than 0 and at most 1.
        batch_size: samples per step, of which an epoch has at least one.
    """

    def __init__(self, split: Split, part: float, batch_size: int) -> None:
        super().__init__(split)
        steps = max(1, sample_count(split) // batch_size)
        self._steps, self._batch_size = max(1, round(part * steps)), batch_size

    @property
    def samples(self) -> int:
        """Number of samples in one epoch."""
        return min(self._steps * self._batch_size, super().samples)

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Yield the first shuffled batches of the split."""
        return itertools.islice(self._split.shuffled(batch_size, seed=seed), self._steps)
