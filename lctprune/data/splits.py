"""One split of a data set, in memory: it yields normalised batches, augmented by batched tensor code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy
import torch
from torch import Tensor

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
    """Changes of training images: random shifts by up to `crop` pixels (edges reflected), and mirroring."""

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
        """Full batches in random order, augmented; what remains of the last batch is left out. `seed` is the pass's:
        those of consecutive passes are consecutive numbers."""


class TensorSplit:
    """A split in memory.

    Args:
        inputs: uint8 images [n, height, width, channels]; int64 token numbers [n, time], zeros at the end being padding
            that batches are freed of; or floating-point inputs of any shape [n, ...]. Or a function that gives them,
            called when the first batch is asked for.
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
        mirrored = self._mirrored(seed)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            indices = order[start : start + batch_size]
            if self.inputs.dtype == torch.uint8:
                inputs = shift_and_flip(self.inputs, indices, mirrored[indices], self.augmentation.crop, generator)
            else:
                inputs = self.inputs[indices]
            yield self._prepared(inputs), self.targets[indices]

    def _mirrored(self, seed: int) -> Tensor:
        """Which images a pass mirrors, [n]: a random half, and in the next pass all others, so that two passes show
        every image from both sides (alternating flip: Jordan 2024, arXiv 2404.00498). So the half is the same for all
        seeds."""
        if not self.augmentation.flip:
            return torch.zeros(len(self.targets), dtype=torch.bool)
        half = torch.rand(len(self.targets), generator=torch.Generator().manual_seed(0)) < 0.5
        return half ^ bool(seed % 2)

    def _prepared(self, inputs: Tensor) -> Tensor:
        if inputs.dtype == torch.int64:
            return inputs[:, : max(1, int((inputs != 0).sum(1).max()))]
        if inputs.dtype != torch.uint8:
            return inputs
        return (self.normalization or Normalization((0.0,), (1.0,))).apply(inputs)


def shift_and_flip(images: Tensor, indices: Tensor, mirrored: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Pick images, shift each by its own draw and mirror some, in one gather.

    A shift is a crop from the image padded by reflection; the padding is never made.

    Args:
        images: [n, height, width, channels].
        indices: which, [batch].
        mirrored: whether, bool [batch].
        most: how far a shift goes, in pixels.
        generator: of the shifts.

    Returns:
        [batch, height, width, channels].
    """
    _, height, width, _ = images.shape
    batch = len(indices)
    rows = _shifted(batch, height, most, generator)  # [batch, height]
    columns = _shifted(batch, width, most, generator)  # [batch, width]
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def _shifted(batch: int, size: int, most: int, generator: torch.Generator) -> Tensor:
    """Positions 0..size-1 moved by up to `most` either way, reflected at the edges: [batch, size]."""
    offsets = torch.randint(-most, most + 1, (batch, 1), generator=generator)
    positions = (torch.arange(size) + offsets).abs()
    return (size - 1) - ((size - 1) - positions).abs()


def stratified(
    targets: Tensor,
    fraction: float,
    seed: int,
    *,
    remedy: str = "add samples, or give a split of your own (val/, val.tsv)",
) -> tuple[Tensor, Tensor]:
    """Indices of the larger and of the held-out part, each with the same share of every class.

    Raises:
        DataError: a class is too small.
    """
    from sklearn.model_selection import train_test_split  # slow to import

    try:
        kept, held_out = train_test_split(
            numpy.arange(len(targets)), test_size=fraction, random_state=seed, stratify=targets.numpy()
        )
    except ValueError as error:
        smallest = int(targets.bincount().min())
        raise DataError(
            f"{len(targets)} samples of {int(targets.max()) + 1} classes (the smallest has {smallest}) are too few to "
            f"hold out {fraction:.0%} of them; {remedy}"
        ) from error
    return torch.from_numpy(kept).sort().values, torch.from_numpy(held_out).sort().values
