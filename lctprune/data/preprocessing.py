"""From stored pixels to a network's input: normalisation, and random changes of training images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.errors import ConfigError
from lctprune.utils.wording import counted

NO_FLIP = {"digits", "digits-cluttered"}  # a mirrored digit is not a digit


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel of images, or of each column of a table.

    Attributes:
        mean: mean of each channel, for pixels between 0 and 1, or of each column.
        std: standard deviation of each channel or column.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Tensor) -> Normalization:
        """Measure the mean and deviation of uint8 images, [n, height, width, channels]."""
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
        """Turn uint8 [n, height, width, channels] into float32 [n, channels, height, width], stored channels last.

        Raises:
            ConfigError: it is of another number of channels than the images.
        """
        if len(self.mean) not in (1, images.shape[3]):
            raise ConfigError(
                f"the images have {counted(images.shape[3], 'channel')}, and the mean and deviation of the weights are "
                f"of {len(self.mean)}: such weights are for other images; choose other `data`, or train without them"
            )
        scale, shift = _constants(self, *images.shape[2:], images.device)
        # whole rows, in place: half the time of one operation for each pixel of 3 channels
        rows = images.flatten(2).to(torch.float32).mul_(scale).add_(shift)
        return rows.view(images.shape).permute(0, 3, 1, 2)


def asked_normalization(config: DataConfig, channels: int) -> Normalization | None:
    """Return the normalisation that the settings give, one number being for all channels; None where they give none.

    Raises:
        ConfigError: it has another number of channels than the images.
    """
    if config.mean is None or config.std is None:
        return None
    for name, values in (("mean", config.mean), ("std", config.std)):
        if len(values) not in (1, channels):
            raise ConfigError(f"{name} has {len(values)} numbers, the images have {channels} channels; give as many")
    spread = (values * channels if len(values) == 1 else values for values in (config.mean, config.std))
    return Normalization(*spread)


@functools.lru_cache(maxsize=64)
def _constants(normalization: Normalization, width: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return factor and summand for a row of pixels from 0 to 255, on a device: copied once, not with every batch."""
    with torch.inference_mode(False):
        std = torch.tensor(normalization.std)
        factor, summand = 1 / (255 * std), -torch.tensor(normalization.mean) / std
        return factor.expand(channels).repeat(width).to(device), summand.expand(channels).repeat(width).to(device)


class Augmentation(NamedTuple):
    """Random changes of training images: shifts, mirroring and RandAugment.

    Attributes:
        crop: largest shift, in pixels; edges are reflected.
        flip: whether images are mirrored, each in every second pass.
        magnitude: strength of RandAugment's operations, 1 to 30; 0 for none.
    """

    crop: int = 0
    flip: bool = False
    magnitude: int = 0


NO_AUGMENTATION = Augmentation()


def augmentation_of(config: DataConfig, size: int) -> Augmentation:
    """Return the augmentation that the settings ask for, for images of `size` pixels a side."""
    kind = config.augment
    if kind == "auto":
        kind = "crop" if config.name in NO_FLIP else "crop-flip"
    crop = max(1, round(size * config.shift))
    return Augmentation(0 if kind == "none" else crop, kind == "crop-flip", config.randaugment)


def randaugment(image: Tensor, magnitude: int, seed: int) -> Tensor:
    """Apply two random operations, as shearing or changing colours, to an image.

    RandAugment: Cubuk et al. 2020, arXiv 1909.13719.

    Args:
        image: uint8 [height, width, channels].
        magnitude: strength, 1 to 30.
        seed: random seed of the operations.
    """
    with torch.random.fork_rng(devices=()):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(seed)
        changed: Tensor = _operations(magnitude)(image.permute(2, 0, 1))
    return changed.permute(1, 2, 0)


@functools.cache
def _operations(magnitude: int) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2  # slow to import

    operations: Callable[[Tensor], Tensor] = v2.RandAugment(num_ops=2, magnitude=magnitude)
    return operations


def draw_shifts(
    indices: Tensor, mirrored: Tensor, size: tuple[int, int], most: int, generator: torch.Generator
) -> Tensor:
    """Draw what `shift_and_flip` does to a batch.

    Args:
        indices: positions of the images to pick, [batch].
        mirrored: flags of the images to mirror, bool [batch].
        size: height and width, in pixels.
        most: largest shift, in pixels.
        generator: source of the random shifts.

    Returns:
        Positions, flags, and shifts of rows and columns, [4, batch]; on the CPU, so that the draws are those of every
        device.
    """
    shifts = [torch.randint(-most, most + 1, (len(indices), 1), generator=generator)[:, 0] for _ in size]
    return torch.stack([indices, mirrored.long(), *shifts])


def shift_and_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Pick images, shift each by its own draw and mirror some, in one gather.

    A shift is a crop from the image padded by reflection; the padding is never made.

    Args:
        images: uint8 images, [n, height, width, channels].
        draws: draws of `draw_shifts`, on the device of the images, [4, batch].

    Returns:
        [batch, height, width, channels].
    """
    _, height, width, _ = images.shape
    indices, mirrored, down, right = draws.unsqueeze(-1)  # [batch, 1] each
    rows, columns = _shifted(height, down), _shifted(width, right)
    columns = torch.where(mirrored.bool(), columns.flip(1), columns)
    return images[indices[:, :, None], rows[:, :, None], columns[:, None, :]]


def _shifted(size: int, offsets: Tensor) -> Tensor:
    """Move the positions 0..size-1 by offsets, [batch, 1], reflected at the edges: [batch, size]."""
    positions = (torch.arange(size, device=offsets.device) + offsets).abs()
    return (size - 1) - ((size - 1) - positions).abs()
