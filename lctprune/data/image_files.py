"""Image files: decode them, and stream those too large for memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lctprune.data.preprocessing import NO_AUGMENTATION, Augmentation, Normalization
from lctprune.data.splits import Batch, Split
from lctprune.data.torch_loader import one_line_errors
from lctprune.errors import DataError


class FolderSplit(Split):
    """A split of large image files, decoded by worker processes during training.

    Training crops a random part and resizes it (Szegedy et al. 2015); evaluation resizes the shorter side and crops the
    centre, whose side is 7/8 of it, as usual for 224 pixels.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        targets: Tensor,
        normalization: Normalization,
        augmentation: Augmentation = NO_AUGMENTATION,
        *,
        size: int,
    ) -> None:
        self.paths = paths
        self._targets = targets
        self.normalization = normalization
        changes: list[Any] = [v2.RandomHorizontalFlip()] if augmentation.flip else []
        shape = (size, size)
        self._train_transform = v2.Compose([v2.RandomResizedCrop(shape, scale=(0.35, 1.0), antialias=True), *changes])
        self._test_transform = v2.Compose([v2.Resize(streamed_resize(size), antialias=True), v2.CenterCrop(shape)])
        if not augmentation.crop:
            self._train_transform = v2.Compose([self._test_transform, *changes])

    @property
    def targets(self) -> Tensor:
        """Labels of the files, in their order."""
        return self._targets

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield every sample once, in order."""
        yield from self._load(self._test_transform, batch_size, generator=torch.Generator())  # not the global one

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Yield full batches in an order by `seed`."""
        generator = torch.Generator().manual_seed(seed)
        batch_size = min(batch_size, len(self.paths))
        yield from self._load(self._train_transform, batch_size, shuffle=True, drop_last=True, generator=generator)

    def _load(self, transform: Callable[[Any], Any], batch_size: int, **options: Any) -> Iterator[Batch]:
        workers = max(1, min(4, (os.cpu_count() or 2) - 1))  # never 0: workers draw from the generator of `options`
        dataset = _ImageFiles(self.paths, self.targets, transform)
        for images, targets in one_line_errors(DataLoader(dataset, batch_size, num_workers=workers, **options)):
            yield self.normalization.apply(images), targets


def streamed_resize(size: int) -> int:
    """Return the side to which evaluation resizes before it crops the centre of `size` pixels: 256 for 224."""
    return size * 8 // 7


class _ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, paths: Sequence[Path], targets: Tensor, transform: Callable[[Any], Any]) -> None:
        self.paths, self.targets, self.transform = paths, targets, transform

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return _pixels(self.transform(_open(self.paths[index]))), self.targets[index]

    def __len__(self) -> int:
        return len(self.paths)


def decode_images(paths: Sequence[Path], size: int | None = None) -> Tensor:
    """Read images as RGB; with `size`, resize the shorter side to it and crop the centre.

    Returns:
        uint8 [n, height, width, 3].

    Raises:
        DataError: a file is not an image, or (without `size`) two images differ in size.
    """

    def decode(path: Path) -> Tensor:
        image = _open(path)
        if size is not None and image.size != (size, size):
            image = v2.functional.center_crop(v2.functional.resize(image, [size], antialias=True), [size, size])
        return _pixels(image)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = list(pool.map(decode, paths))
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(f"{path} and {paths[0]} differ in size; give an image size")
    return torch.stack(images)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.mode in ("I", "F") and image.format != "PPM":
                raise ValueError("its pixels are 32-bit numbers of an unknown range; convert it to 8 bits")
            if image.mode.startswith("I"):  # 16 bits, which `convert` would clip to 255
                return Image.fromarray((numpy.asarray(image) >> 8).astype(numpy.uint8)).convert("RGB")
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); repair it or move it away") from error


def _pixels(image: Image.Image) -> Tensor:
    """Return the pixels as uint8 [height, width, 3]."""
    return torch.from_numpy(numpy.array(image))
