"""One split of a data set: what training and evaluation ask of it, and how a PyTorch dataset becomes one."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from lctprune.data.torch_loader import Batch, Collate, as_targets, checked, collate_pairs, load_batches, seeded
from lctprune.errors import DataError

__all__ = ["Batch", "DatasetSplit", "Split", "sample_count"]

COUNTING_BATCH = 256  # samples read at a time to collect targets


class Split(ABC):
    """Base class of a split: the samples that training or evaluation reads, in batches of (inputs, targets)."""

    @property
    @abstractmethod
    def targets(self) -> Tensor:
        """All targets, in order, [n, ...]; for a stream of stated length, only that of its first sample."""

    @abstractmethod
    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield every sample once, in order, unchanged."""

    @abstractmethod
    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Yield full batches in random order, augmented; what remains of the last batch is left out.

        Args:
            batch_size: samples per batch.
            seed: random seed of the pass; consecutive passes have consecutive seeds.
        """

    @property
    def samples(self) -> int:
        """Number of samples in one pass."""
        return len(self.targets)

    def on_device(self, device: str) -> Split:
        """Return this split for training on a device; by default itself, whose batches are copied there.

        Args:
            device: device on which batches may be prepared.
        """
        return self

    def balanced(self) -> Split:
        """Return this split with shuffled batches in which each class comes equally often.

        Raises:
            DataError: it cannot choose its samples.
        """
        raise DataError(f"a {type(self).__name__} cannot be balanced by class; balance the samples that it is made of")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.samples} samples)"

    @staticmethod
    def from_dataset(
        dataset: Any,
        collate: Collate | None = None,
        *,
        targets: Any = None,
        samples: int | None = None,
        num_workers: int = 0,
    ) -> Split:
        """Make a split of a PyTorch or Hugging Face dataset, which is read as training goes and never held in memory.

        Samples come in an order that depends on the seed of training alone, so that an interrupted training resumes to
        the bit; random transforms repeat too, as long as `num_workers` stays. An iterable dataset is shuffled by
        itself or not at all: its `set_epoch(seed)` is called before every pass, or its attribute `generator` (a
        `torch.Generator`) is seeded; without both, samples come as the dataset gives them. Each pass iterates over it
        anew. With `num_workers` it must divide its samples among them (`torch.utils.data.get_worker_info`).

        Args:
            dataset: a map-style dataset, with `__len__` and `__getitem__`, or a `torch.utils.data.IterableDataset`.
            collate: function that makes (inputs, targets) of a list of samples, two tensors with one row per sample;
                by default samples are (input, target) pairs and are stacked.
            targets: all targets in the order of the dataset, e.g. `dataset["label"]`. By default the dataset's
                attribute `targets` or `labels`, if it begins with the first sample's target; otherwise one pass over
                the dataset collects them, when training first asks for them.
            samples: number of samples in one pass over an iterable dataset, which may be endless; by default its
                `len()` or the number of `targets`; otherwise one pass over the dataset counts them.
            num_workers: number of processes that read the dataset beside this one, as for
                `torch.utils.data.DataLoader`.

        Raises:
            DataError: the dataset is of neither kind or empty, its first sample does not make a batch, or `targets` or
                `samples` do not fit it.
        """
        return DatasetSplit(
            dataset, collate or collate_pairs, targets=targets, samples=samples, num_workers=num_workers
        )


def sample_count(split: Split) -> int:
    """Return the number of samples in one pass; an object that only looks like a `Split` has as many as targets."""
    return split.samples if isinstance(split, Split) else len(split.targets)


class DatasetSplit(Split):
    """A split of a PyTorch dataset, map-style or iterable. See `Split.from_dataset`."""

    def __init__(self, dataset: Any, collate: Collate, *, targets: Any, samples: int | None, num_workers: int) -> None:
        self._dataset, self._collate, self._num_workers = dataset, collate, num_workers
        self._is_stream = isinstance(dataset, IterableDataset)
        if not self._is_stream and not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise DataError(
                f"a {type(dataset).__name__} is neither a map-style dataset (__len__ and __getitem__) nor a "
                "torch.utils.data.IterableDataset; wrap it in one of them"
            )
        self._first_target = self._read_first_target()
        self._given = self._given_targets(targets)
        self._length = self._stated_length(samples)  # None: a stream of unknown length

    @cached_property
    def targets(self) -> Tensor:
        """All targets, in order; for a stream whose length is known, only that of its first sample."""
        if self._given is not None:
            return self._given
        if self._is_stream and self._length is not None:
            return self._first_target
        return torch.cat([targets for _, targets in self.batches(COUNTING_BATCH)])

    @property
    def samples(self) -> int:
        """Number of samples in one pass."""
        return len(self.targets) if self._length is None else self._length

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield every sample once, in order."""
        left = self._length
        for inputs, targets in self._load(batch_size, seed=0):
            yield inputs[:left], targets[:left]
            if left is not None:
                left -= len(targets)
                if left <= 0:
                    return
        if left:
            raise DataError(
                f"the dataset ended after {(self._length or 0) - left} of {self._length} samples; correct its length "
                "or samples="
            )

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Yield full batches in an order by `seed`."""
        batch_size = min(batch_size, self.samples)
        steps, count = self.samples // batch_size, 0
        for batch in itertools.islice(self._load(batch_size, seed=seed, drop_last=True), steps):
            yield batch
            count += 1
        if count < max(1, steps - self._num_workers):  # each worker drops what does not fill its last batch
            raise DataError(
                f"one pass over the dataset gave {count} batches of {batch_size}, but its {self.samples} samples "
                f"should make {steps}; correct samples= or use fewer than {self._num_workers or 1} num_workers"
            )

    def _load(self, batch_size: int, *, seed: int, drop_last: bool = False) -> Iterator[Batch]:
        if self._is_stream:
            _shuffle_stream(self._dataset, seed)
        return load_batches(
            self._dataset,
            batch_size,
            seed=seed,
            collate=self._collate,
            num_workers=self._num_workers,
            shuffle=drop_last and not self._is_stream,
            drop_last=drop_last,
        )

    def _read_first_target(self) -> Tensor:
        """Read one sample and make a batch of it, so that what does not fit is refused at once: [1, ...]."""
        with seeded(0):
            rows = list(itertools.islice(iter(self._dataset), 1)) if self._is_stream else []
            if not self._is_stream and len(self._dataset):
                rows = [self._dataset[0]]
            if not rows:
                raise DataError(f"the {type(self._dataset).__name__} is empty; a split needs at least one sample")
            return checked(self._collate(rows))[1]

    def _given_targets(self, targets: Any) -> Tensor | None:
        if targets is not None:
            given = as_targets(targets)
            if given.is_floating_point() != self._first_target.is_floating_point():
                raise DataError(
                    f"targets= has type {given.dtype}, but the dataset's targets have {self._first_target.dtype}; "
                    "give the dataset's own targets"
                )
            return given
        if self._is_stream:
            return None
        for name in ("targets", "labels"):
            try:
                known = as_targets(getattr(self._dataset, name))
            except (AttributeError, TypeError, ValueError, RuntimeError):
                continue  # no such attribute, or not one of numbers
            is_alike = known.is_floating_point() == self._first_target.is_floating_point()
            if is_alike and len(known) == len(self._dataset) and torch.equal(known[:1], self._first_target):
                return known
        return None

    def _stated_length(self, samples: int | None) -> int | None:
        """Return the number of samples that the dataset or the caller states, after a check that all agree."""
        if samples is not None and (samples < 1 or not self._is_stream):
            raise DataError(f"samples is {samples}; it is for iterable datasets only, and must be at least 1")
        length = samples or (len(self._dataset) if hasattr(self._dataset, "__len__") else None)
        given = None if self._given is None else len(self._given)
        if given is not None and length is not None and given != length:
            raise DataError(f"targets= has {given} targets for a dataset of {length} samples; give one per sample")
        return length or given


def _shuffle_stream(dataset: Any, seed: int) -> None:
    """Tell an iterable dataset the seed of the next pass, where it can be told."""
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(seed)
    elif isinstance(getattr(dataset, "generator", None), torch.Generator):
        dataset.generator.manual_seed(seed)
