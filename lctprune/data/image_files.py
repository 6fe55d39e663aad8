"""Image files: decode them, and stream those too large for memory."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lctprune.config.images import WHITE, ImagePreprocessing
from lctprune.data.decoding import read_image
from lctprune.data.preprocessing import NO_AUGMENTATION, Augmentation, Normalization
from lctprune.data.splits import Batch, Split
from lctprune.data.torch_loader import one_line_errors
from lctprune.utils.transfer import sent

_Transform = Callable[[Any], Any]


class FolderSplit(Split):
    """A split of image files that are too large for memory, decoded by worker processes during training.

    Evaluation gives the pixels that `decode_images` gives. Where large images are cropped, training crops a random part
    and resizes it (Szegedy et al. 2015); otherwise it shifts images like those in memory.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        targets: Tensor,
        normalization: Normalization,
        augmentation: Augmentation = NO_AUGMENTATION,
        *,
        preprocessing: ImagePreprocessing,
    ) -> None:
        from torchvision.transforms import v2  # slow to import

        self.paths = paths
        self._targets = targets
        self._device = "cpu"
        self.normalization = normalization
        self.preprocessing = preprocessing
        shape = (preprocessing.size, preprocessing.size)
        self._test_transform = functools.partial(fitted, preprocessing=preprocessing)
        changes: list[Any] = [self._test_transform]
        if augmentation.crop and preprocessing.resize == "crop":
            changes = [v2.RandomResizedCrop(shape, scale=(0.35, 1.0), antialias=True)]
        elif augmentation.crop:
            changes += [v2.Pad(augmentation.crop, padding_mode="reflect"), v2.RandomCrop(shape)]
        self._train_transform = v2.Compose(changes + ([v2.RandomHorizontalFlip()] if augmentation.flip else []))

    @property
    def targets(self) -> Tensor:
        """Labels of the files, in their order."""
        return self._targets

    def on_device(self, device: str) -> FolderSplit:
        """Return this split for training on a device, where images become floating-point numbers."""
        there = copy.copy(self)
        there._device = device
        return there

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield every sample once, in order."""
        yield from self._load(self._test_transform, batch_size, generator=torch.Generator())  # not the global one

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Yield full batches in an order by `seed`."""
        generator = torch.Generator().manual_seed(seed)
        batch_size = min(batch_size, len(self.paths))
        yield from self._load(self._train_transform, batch_size, shuffle=True, drop_last=True, generator=generator)

    def _load(self, transform: _Transform, batch_size: int, **options: Any) -> Iterator[Batch]:
        workers = max(1, min(4, (os.cpu_count() or 2) - 1))  # never 0: workers draw from the generator of `options`
        dataset = _ImageFiles(self.paths, self.targets, self.preprocessing, transform)
        for images, targets in one_line_errors(DataLoader(dataset, batch_size, num_workers=workers, **options)):
            yield self.normalization.apply(sent(images, self._device)), targets


class _ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    def __init__(
        self, paths: Sequence[Path], targets: Tensor, preprocessing: ImagePreprocessing, transform: _Transform
    ) -> None:
        self.paths, self.targets, self.preprocessing, self.transform = paths, targets, preprocessing, transform

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.transform(read_image(self.paths[index], self.preprocessing))
        return _pixels(image), self.targets[index]

    def __len__(self) -> int:
        return len(self.paths)


def decode_images(paths: Sequence[Path], preprocessing: ImagePreprocessing) -> Tensor:
    """Read images as RGB squares.

    Returns:
        uint8 [n, size, size, 3].

    Raises:
        DataError: a file cannot be read.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return torch.stack(list(pool.map(functools.partial(pixels_of, preprocessing=preprocessing), paths)))


def pixels_of(path: Path, preprocessing: ImagePreprocessing) -> Tensor:
    """Read one image as an RGB square, uint8 [size, size, 3].

    Raises:
        DataError: the file cannot be read.
    """
    return _pixels(fitted(read_image(path, preprocessing), preprocessing))


def fitted(image: Image.Image, preprocessing: ImagePreprocessing) -> Image.Image:
    """Resize an RGB image to a square, and crop or pad it, as the preprocessing says."""
    size, shape = preprocessing.size, (preprocessing.size, preprocessing.size)
    if preprocessing.resize == "crop":
        from torchvision.transforms import v2  # slow to import

        if image.size != shape or preprocessing.shorter_side != size:
            image = v2.functional.resize(image, [preprocessing.shorter_side], antialias=True)
        cropped: Image.Image = v2.functional.center_crop(image, [size, size])
        return cropped
    if preprocessing.resize == "squeeze":
        return image.resize(shape, Image.Resampling.BILINEAR)
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("RGB", shape, tuple(preprocessing.background or WHITE))
    canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((size - width) // 2, (size - height) // 2))
    return canvas


def _pixels(image: Image.Image) -> Tensor:
    """Return the pixels as uint8 [height, width, 3]."""
    return torch.from_numpy(numpy.array(image))
