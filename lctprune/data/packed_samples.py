"""Images that lie in larger files: where their bytes are, so that any of them is read alone, in any process."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import torch
from torch import Tensor

from lctprune.errors import DataError
from lctprune.utils.files import open_regular, read_regular


class Packed(NamedTuple):
    """An image within a file, or a part of it.

    Attributes:
        container: file that holds its bytes.
        offset: first of them.
        size: number of them.
        where: what messages call it, such as "train-000.tar: 17.jpg".
    """

    container: str
    offset: int
    size: int
    where: str

    def __str__(self) -> str:
        return self.where

    def content(self) -> bytes:
        """Read the bytes.

        Raises:
            OSError: the file cannot be read.
            DataError: it is no regular file, or ends before them.
        """
        with open_regular(Path(self.container), DataError) as file:
            content = os.pread(file.fileno(), self.size, self.offset) if hasattr(os, "pread") else b""
            while len(content) < self.size:  # the system reads at most 2 GiB at a time
                file.seek(self.offset + len(content))
                more = file.read(self.size - len(content))
                if not more:
                    raise DataError(f"{self.container} ends before {self.where}; restore the file")
                content += more
        return content


ImageSource = str | Path | Packed


def content_of(source: ImageSource) -> bytes:
    """Read an image's bytes, of a file of its own or in another one.

    Raises:
        OSError: the file cannot be read.
        DataError: it is no regular file, or too large.
    """
    return source.content() if isinstance(source, Packed) else read_regular(Path(source), DataError)


class Shard(NamedTuple):
    """Where the images of one file are.

    Attributes:
        path: file as the user knows it.
        container: file that holds the bytes.
        offsets: first byte of each image, int64 [n].
        sizes: bytes of each image, int64 [n].
        names: name of each image; None for rows, which are called by their number, from 0.
    """

    path: Path
    container: str
    offsets: Tensor
    sizes: Tensor
    names: Sequence[str] | None = None

    def name_of(self, row: int) -> str:
        """Return what messages call an image."""
        return f"{self.path}, row {row}" if self.names is None else f"{self.path}: {self.names[row]}"


class PackedImages(Sequence[Packed]):
    """Images of some shards, by 24 bytes and a name each; a `Packed` is made when it is asked for.

    Args:
        shards: files in order.
        rows: images that belong to it, numbered over all shards, [n]; by default all.
    """

    def __init__(self, shards: Sequence[Shard], rows: Tensor | None = None) -> None:
        self._shards = shards
        self._ends = [*itertools.accumulate(len(shard.sizes) for shard in shards)]
        self._rows = torch.arange(self._ends[-1] if shards else 0) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Packed: ...
    @overload
    def __getitem__(self, index: slice) -> PackedImages: ...
    def __getitem__(self, index: int | slice) -> Packed | PackedImages:
        if isinstance(index, slice):
            return PackedImages(self._shards, self._rows[index])
        row = int(self._rows[index])
        number = bisect.bisect_right(self._ends, row)
        shard = self._shards[number]
        row -= self._ends[number - 1] if number else 0
        return Packed(shard.container, int(shard.offsets[row]), int(shard.sizes[row]), shard.name_of(row))

    def chosen(self, indices: Tensor) -> PackedImages:
        """Return the images with the given numbers."""
        return PackedImages(self._shards, self._rows[indices])


Samples = TypeVar("Samples", list[str], PackedImages)  # paths or texts, or images in larger files


def subset(samples: tuple[Samples, Tensor], indices: Tensor) -> tuple[Samples, Tensor]:
    """Return the samples with the given numbers, and their labels."""
    values, labels = samples
    if isinstance(values, PackedImages):
        return values.chosen(indices), labels[indices]
    return [values[index] for index in indices.tolist()], labels[indices]
