"""Image files: decode them, and stream those too large for memory."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from lctprune.config.images import ImagePreprocessing
from lctprune.data.images.decoding import read_image
from lctprune.data.images.fitting import RandomChanges, fitted
from lctprune.data.images.workers import ImageReaders, Item
from lctprune.data.packed_samples import ImageSource, Packed
from lctprune.data.preprocessing import NO_AUGMENTATION, Augmentation, Normalization
from lctprune.data.sampling import shuffled_order
from lctprune.data.splits import Batch, Split
from lctprune.utils.transfer import sent

CHUNK = 64  # images that a thread decodes at a time


class FolderSplit(Split):
    """A split of image files that are too large for memory, decoded by worker processes during training.

    Evaluation gives the pixels that `decode_images` gives. Where large images are cropped, training crops a random part
    and resizes it (Szegedy et al. 2015); otherwise it shifts images like those in memory. The seed of a pass says what
    is drawn for each image, whatever the number of workers.

    Args:
        paths: image files.
        targets: their labels, [n].
        normalization: mean and deviation of the channels.
        augmentation: random changes, in `shuffled` alone.
        preprocessing: steps from a file to a square.
        readers: workers, which may serve several splits of like preprocessing; by default the split's own.
    """

    def __init__(
        self,
        paths: Sequence[ImageSource],
        targets: Tensor,
        normalization: Normalization,
        augmentation: Augmentation = NO_AUGMENTATION,
        *,
        preprocessing: ImagePreprocessing,
        readers: ImageReaders | None = None,
    ) -> None:
        self.paths = paths
        self._targets = targets
        self._device = "cpu"
        self._balanced = False
        self.normalization = normalization
        self.preprocessing = preprocessing
        self._readers = readers or ImageReaders(RandomChanges(preprocessing, augmentation))

    @property
    def targets(self) -> Tensor:
        """Labels of the files, in their order."""
        return self._targets

    def on_device(self, device: str) -> FolderSplit:
        """Return this split for training on a device, where images become floating-point numbers."""
        there = copy.copy(self)
        there._device = device
        return there

    def balanced(self) -> FolderSplit:
        """Return this split with shuffled batches in which each class comes equally often."""
        even = copy.copy(self)
        even._balanced = True
        return even

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield every sample once, in order."""
        order = torch.split(torch.arange(len(self.paths)), batch_size)
        if batch_size == 1:  # one sample is often all that is asked for, and workers take longer to start than it
            yield next(self._read(order[:1], [None], readers=self._readers.here))
            order = order[1:]
        yield from self._read(order, itertools.repeat(None))

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Yield full batches in an order by `seed`."""
        generator = torch.Generator().manual_seed(seed)
        batch_size = min(batch_size, len(self.paths))
        order = shuffled_order(self.targets, generator, balanced=self._balanced)
        seeds = torch.randint(2**62, (len(order),), generator=generator)
        whole = len(order) // batch_size * batch_size
        return self._read(torch.split(order[:whole], batch_size), seeds.tolist())

    def _read(
        self, batches: Sequence[Tensor], seeds: Iterable[int | None], readers: ImageReaders | None = None
    ) -> Iterator[Batch]:
        upcoming = iter(seeds)
        items = ([Item(self._named(index), next(upcoming)) for index in batch.tolist()] for batch in batches)
        for images, indices in zip((readers or self._readers).read(items), batches, strict=True):
            yield self.normalization.apply(sent(images, self._device)), self.targets[indices]

    def _named(self, index: int) -> str | Packed:
        path = self.paths[index]
        return path if isinstance(path, Packed) else str(path)


def decode_images(paths: Sequence[ImageSource], preprocessing: ImagePreprocessing) -> Tensor:
    """Read images as RGB squares.

    Returns:
        uint8 [n, size, size, 3].

    Raises:
        DataError: a file cannot be read.
    """
    size = preprocessing.size
    squares = torch.empty(len(paths), size, size, 3, dtype=torch.uint8)

    def decode(start: int) -> None:
        for index in range(start, min(start + CHUNK, len(paths))):
            squares[index] = pixels_of(paths[index], preprocessing)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(decode, range(0, len(paths), CHUNK)):
            pass
    return squares


def pixels_of(path: ImageSource, preprocessing: ImagePreprocessing) -> Tensor:
    """Read one image as an RGB square, uint8 [size, size, 3].

    Raises:
        DataError: the file cannot be read.
    """
    return fitted(torch.from_numpy(read_image(path, preprocessing)), preprocessing)
