"""One split of a data set, in memory or streamed from files; it yields normalised batches in channels-last layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lctprune.errors import DataError

Batch = tuple[Tensor, Tensor]  # inputs [batch, ...], targets [batch, ...]


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel, for pixels between 0 and 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Tensor) -> Normalization:
        """Measured on uint8 images, [n, height, width, channels]."""
        count = images[..., 0].numel()
        means, stds = [], []
        for channel in images.unbind(-1):
            histogram = channel.flatten().bincount(minlength=256).double()
            values = torch.arange(256, dtype=torch.double) / 255
            mean = (histogram @ values) / count
            means.append(round(float(mean), 6))
            stds.append(round(max(float(((values - mean).square() @ histogram / count).sqrt()), 1 / 255), 6))
        return cls(tuple(means), tuple(stds))

    def apply(self, images: Tensor) -> Tensor:
        """uint8 [n, height, width, channels] -> float32 [n, channels, height, width], channels last in memory."""
        scale = 1 / (255 * torch.tensor(self.std))
        shift = -torch.tensor(self.mean) / torch.tensor(self.std)
        return (images * scale).add_(shift).permute(0, 3, 1, 2)


class Augmentation(NamedTuple):
    """Random changes of training images: a shift by up to `crop` pixels (edges reflected), and mirroring."""

    crop: int = 0
    flip: bool = False


NO_AUGMENTATION = Augmentation()


class Split(Protocol):
    """What training and evaluation need of a split."""

    @property
    def targets(self) -> Tensor:
        """All targets, in order, [n, ...]."""

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Every sample once, in order, unchanged."""

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Full batches in random order, augmented; what remains of the last batch is left out."""


class TensorSplit:
    """A split in memory.

    Args:
        inputs: uint8 images [n, height, width, channels], or floating-point inputs of any shape [n, ...].
        targets: [n, ...].
        normalization: of images.
        augmentation: of images, in `shuffled`.

    Raises:
        DataError: there are no samples, or not as many targets as inputs.
    """

    def __init__(
        self,
        inputs: Tensor | Callable[[], Tensor],
        targets: Tensor,
        normalization: Normalization | None = None,
        augmentation: Augmentation = NO_AUGMENTATION,
    ) -> None:
        self._inputs = inputs
        self.targets = targets
        self.normalization = normalization
        self.augmentation = augmentation
        if len(targets) == 0 or (isinstance(inputs, Tensor) and len(inputs) != len(targets)):
            raise DataError(f"a split needs as many inputs as targets, and at least one; it got {len(targets)} targets")

    @classmethod
    def decoded_later(
        cls,
        paths: Sequence[Path],
        targets: Tensor,
        normalization: Normalization,
        augmentation: Augmentation = NO_AUGMENTATION,
        *,
        size: int,
    ) -> TensorSplit:
        """A split of image files that are read when the first batch is asked for."""
        return cls(lambda: decode_images(paths, size), targets, normalization, augmentation)

    @property
    def inputs(self) -> Tensor:
        """All inputs, as they were given."""
        if not isinstance(self._inputs, Tensor):
            self._inputs = self._inputs()
        return self._inputs

    def batches(self, batch_size: int) -> Iterator[Batch]:
        for start in range(0, len(self.targets), batch_size):
            stop = start + batch_size
            yield self._prepared(self.inputs[start:stop]), self.targets[start:stop]

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        batch_size = min(batch_size, len(self.targets))
        order = torch.randperm(len(self.targets), generator=generator)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            indices = order[start : start + batch_size]
            if self.inputs.dtype == torch.uint8:
                inputs = random_shift_and_flip(self.inputs, indices, self.augmentation, generator)
            else:
                inputs = self.inputs[indices]
            yield self._prepared(inputs), self.targets[indices]

    def _prepared(self, inputs: Tensor) -> Tensor:
        if inputs.dtype != torch.uint8:
            return inputs
        return (self.normalization or Normalization((0.0,), (1.0,))).apply(inputs)


def random_shift_and_flip(
    images: Tensor, indices: Tensor, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """Pick images and change each by its own draw, in one gather.

    A shift is a crop from the image padded by reflection; the padding is never made.

    Args:
        images: [n, height, width, channels].
        indices: which, [batch].
        augmentation: how far and whether.
        generator: of the draws.

    Returns:
        [batch, height, width, channels].
    """
    _, height, width, _ = images.shape
    batch = len(indices)
    rows = _shifted(batch, height, augmentation.crop, generator)  # [batch, height]
    columns = _shifted(batch, width, augmentation.crop, generator)  # [batch, width]
    if augmentation.flip:
        mirrored = torch.rand(batch, generator=generator) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def _shifted(batch: int, size: int, most: int, generator: torch.Generator) -> Tensor:
    """Positions 0..size-1 moved by up to `most` either way, reflected at the edges: [batch, size]."""
    offsets = torch.randint(-most, most + 1, (batch, 1), generator=generator)
    positions = (torch.arange(size) + offsets).abs()
    return (size - 1) - ((size - 1) - positions).abs()


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
        self._test_transform = v2.Compose([v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(shape)])
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
            if image.mode.startswith("I;16"):  # which `convert` would clip at 255
                return Image.fromarray((numpy.asarray(image) >> 8).astype(numpy.uint8)).convert("RGB")
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); repair it or move it out") from error


def _pixels(image: Image.Image) -> Tensor:
    """uint8 [height, width, 3]"""
    return torch.from_numpy(numpy.array(image))
