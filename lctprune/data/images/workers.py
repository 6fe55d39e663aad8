"""Processes that decode image files for training: they are told paths, and seeds of random changes, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lctprune.data.images.decoding import read_image
from lctprune.data.images.fitting import RandomChanges, fitted
from lctprune.data.packed_samples import Packed
from lctprune.data.torch_loader import one_line_errors

MOST_WORKERS = 16  # by default
AHEAD = 2  # batches that each worker makes in advance


class Item(NamedTuple):
    """An image to read.

    Attributes:
        path: file, or where the image lies in one.
        seed: random seed of its changes; None for none.
    """

    path: str | Packed
    seed: int | None = None


class ImageReaders:
    """Worker processes that stay from one pass to the next and serve all splits of a data set.

    What they make depends on the items alone, so any number of workers gives equal batches.

    Args:
        changes: steps to a square, and random changes.
        workers: number of processes; 0 reads the files in this one, None takes one less than there are cores.
    """

    def __init__(self, changes: RandomChanges, workers: int | None = None) -> None:
        self._changes = changes
        self._workers = default_workers() if workers is None else workers
        self._batches = _Batches()
        self._loader: DataLoader[Tensor] | None = None

    @property
    def here(self) -> ImageReaders:
        """Readers that do the same in this process."""
        return ImageReaders(self._changes, 0)

    def read(self, batches: Iterable[Sequence[Item]]) -> Iterator[Tensor]:
        """Yield each batch as uint8 [batch, size, size, 3].

        Raises:
            DataError: a file cannot be read.
        """
        if self._batches.upcoming is not None:  # another pass is on its way, in which the workers are busy
            yield from ImageReaders(self._changes, self._workers).read(batches)
            return
        self._batches.upcoming = batches
        try:
            if self._loader is None:
                self._loader = self._started()
            yield from one_line_errors(self._loader)
        except BaseException:  # the pass ends early: what the workers still make is not wanted
            self._loader = None
            raise
        finally:
            self._batches.upcoming = None

    def _started(self) -> DataLoader[Tensor]:
        return DataLoader(
            _Squares(self._changes),
            batch_sampler=self._batches,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            prefetch_factor=AHEAD if self._workers else None,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # not the global one
        )


def default_workers() -> int:
    """Return one less than the cores that this process may use, at least 1 and at most `MOST_WORKERS`."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 2
    return max(1, min(MOST_WORKERS, cores - 1))


class _Batches:
    """The batches of the present pass, as a sampler."""

    upcoming: Iterable[Sequence[Item]] | None = None

    def __iter__(self) -> Iterator[list[Item]]:
        yield from map(list, self.upcoming or ())


class _Squares(Dataset[Tensor]):
    def __init__(self, changes: RandomChanges) -> None:
        self._changes = changes

    def __getitem__(self, item: Item) -> Tensor:
        image = torch.from_numpy(read_image(item.path, self._changes.preprocessing))
        if item.seed is None:
            return fitted(image, self._changes.preprocessing)
        return self._changes.apply(image, item.seed)

    def __getitems__(self, items: Sequence[Item]) -> Tensor:
        size = self._changes.preprocessing.size
        squares = torch.empty(len(items), size, size, 3, dtype=torch.uint8)
        for square, item in zip(squares, items, strict=True):
            square.copy_(self[item])
        return squares


def _unchanged(batch: Any) -> Any:
    return batch
