"""Image files: finding them in a folder of classes, decoding them, and streaming those too large for memory."""

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
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from lctprune.data.splits import NO_AUGMENTATION, Augmentation, Batch, Normalization
from lctprune.errors import DataError


def class_names(folder: Path) -> tuple[str, ...]:
    """Names of the class folders, sorted.

    Raises:
        DataError: there are fewer than two.
    """
    classes = tuple(sorted(_class_folders(folder)))
    if len(classes) < 2:
        raise DataError(
            f"{folder} needs one folder of images a class, at least 2; it holds {', '.join(classes) or 'none'}"
        )
    return classes


def _class_folders(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."}


def labelled_images(folder: Path, classes: Sequence[str]) -> tuple[list[Path], Tensor]:
    """All images below `folder`, sorted by class and name, and their labels.

    Raises:
        DataError: there is a class that is not one of `classes`, a file that is not an image, or no image.
    """
    unknown = sorted(_class_folders(folder) - {*classes})
    if unknown:
        raise DataError(f"{folder / unknown[0]} is a class that train/ does not have; add it there or remove it")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(path for path in (folder / name).rglob("*") if path.is_file() and not _hidden(path, folder))
        for path in files:
            if path.suffix.lower() not in IMG_EXTENSIONS:
                raise DataError(f"{path} is not an image ({', '.join(IMG_EXTENSIONS)}); move it out of the data folder")
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise DataError(f"{folder} holds no images; put them into one folder per class")
    return paths, torch.tensor(labels)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part[0] == "." for part in path.relative_to(folder).parts)


class FolderSplit:
    """A split of large image files, decoded by worker processes as training goes.

    Training crops a random part and resizes it (Szegedy et al. 2015); evaluation resizes the shorter side and takes the
    centre, at 7/8 as usual for 224 pixels.
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
        self.targets = targets
        self.normalization = normalization
        changes: list[Any] = [v2.RandomHorizontalFlip()] if augmentation.flip else []
        shape = (size, size)
        self._train_transform = v2.Compose([v2.RandomResizedCrop(shape, scale=(0.35, 1.0), antialias=True), *changes])
        self._test_transform = v2.Compose([v2.Resize(streamed_resize(size), antialias=True), v2.CenterCrop(shape)])
        if not augmentation.crop:
            self._train_transform = v2.Compose([self._test_transform, *changes])

    def batches(self, batch_size: int) -> Iterator[Batch]:
        yield from self._load(self._test_transform, batch_size, generator=torch.Generator())  # not the global one

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        batch_size = min(batch_size, len(self.paths))
        yield from self._load(self._train_transform, batch_size, shuffle=True, drop_last=True, generator=generator)

    def _load(self, transform: Callable[[Any], Any], batch_size: int, **options: Any) -> Iterator[Batch]:
        workers = max(1, min(4, (os.cpu_count() or 2) - 1))  # never 0: workers draw from the generator of `options`
        dataset = _ImageFiles(self.paths, self.targets, transform)
        try:
            for images, targets in DataLoader(dataset, batch_size, num_workers=workers, **options):
                yield self.normalization.apply(images), targets
        except DataError as error:  # the worker's traceback is in its message; the last line is ours
            raise DataError(
                str(error).strip().splitlines()[-1].removeprefix(f"{DataError.__module__}.DataError: ")
            ) from error


def streamed_resize(size: int) -> int:
    """The shorter side to which evaluation resizes before it takes the centre of `size`: 256 for 224."""
    return size * 8 // 7


class _ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, paths: Sequence[Path], targets: Tensor, transform: Callable[[Any], Any]) -> None:
        self.paths, self.targets, self.transform = paths, targets, transform

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return _pixels(self.transform(_open(self.paths[index]))), self.targets[index]

    def __len__(self) -> int:
        return len(self.paths)


def decode_images(paths: Sequence[Path], size: int | None = None) -> Tensor:
    """Read images as RGB; with `size`, resize the shorter side to it and take the centre.

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
            raise DataError(f"{path} has another size than {paths[0]}; give an image size")
    return torch.stack(images)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.mode in ("I", "F") and image.format != "PPM":
                raise ValueError("its pixels are 32-bit numbers, of an unknown range; convert it to 8 bits")
            if image.mode.startswith("I"):  # 16 bits, which `convert` would clip at 255
                return Image.fromarray((numpy.asarray(image) >> 8).astype(numpy.uint8)).convert("RGB")
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); repair it or move it out") from error


def _pixels(image: Image.Image) -> Tensor:
    """uint8 [height, width, 3]"""
    return torch.from_numpy(numpy.array(image))
