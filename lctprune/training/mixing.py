"""Mix each batch with itself in another order, and the losses alike: mixup and CutMix.

Zhang et al. 2018, arXiv 1710.09412; Yun et al. 2019, arXiv 1905.04899. Sample i meets sample i - 1 (the first meets the
last). What is mixed in a step depends on its number and the seed alone, so every process knows it: the first one mixes
the inputs, and each mixes its own exits' losses, sample by sample. For local critics that is all that changes:
every equation reads mixed losses.
"""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.config.training import ResolvedTrainConfig, TrainConfig
from lctprune.errors import ConfigError
from lctprune.losses import Loss


class Mix(NamedTuple):
    """The mixture of one step.

    Attributes:
        kept: part of a sample that stays, 0 to 1.
        rectangle: first and last row and first and last column of what CutMix pastes, as fractions of the picture's
            sides; None for mixup.
    """

    kept: float
    rectangle: tuple[float, float, float, float] | None = None

    def apply(self, inputs: Tensor) -> Tensor:
        """Mix inputs, [batch, ...], for CutMix [batch, channels, height, width]."""
        if self.rectangle is None:
            return torch.lerp(_partners(inputs), inputs, self.kept)
        height, width = inputs.shape[2:]
        top, bottom, left, right = self.rectangle
        rows = slice(round(top * height), round(bottom * height))
        columns = slice(round(left * width), round(right * width))
        mixed = inputs.clone()
        mixed[:, :, rows, columns] = _partners(inputs[:, :, rows, columns])
        return mixed


def mix_of(step: int, config: ResolvedTrainConfig) -> Mix | None:
    """Draw the mixture of a step, by its number in the training and the seed; None without `mixup` and `cutmix`."""
    if not (config.mixup or config.cutmix):
        return None
    draw = Random(f"{config.seed} {step} mix")
    cuts = bool(config.cutmix) and (not config.mixup or draw.random() < 0.5)
    alpha = config.cutmix if cuts else config.mixup
    kept = draw.betavariate(alpha, alpha)
    if not cuts:
        return Mix(kept)
    half = math.sqrt(1 - kept) / 2  # a side of the rectangle, which an edge may cut
    top, bottom, left, right = (
        min(1.0, max(0.0, centre + offset)) for centre in (draw.random(), draw.random()) for offset in (-half, half)
    )
    return Mix(1 - (bottom - top) * (right - left), (top, bottom, left, right))


def require_mixable(example: Tensor, config: TrainConfig) -> None:
    """Refuse to mix inputs that cannot be mixed.

    Args:
        example: an input, [1, ...].
        config: settings of the training.

    Raises:
        ConfigError: they are numbers of words, or CutMix is asked for and they are no pictures.
    """
    if (config.mixup or config.cutmix) and not example.is_floating_point():
        option = "`mixup`" if config.mixup else "`cutmix`"
        raise ConfigError(f"{option} mixes pictures or numbers, and the inputs are words; leave it out")
    if config.cutmix and example.dim() != 4:
        raise ConfigError(f"`cutmix` is for pictures, and the inputs have shape {[*example.shape[1:]]}; try `mixup`")


def mixed_loss(loss: Loss, kept: float) -> Loss:
    """Return the loss of mixed samples, [batch]: kept * l(output, own target) + (1 - kept) * l(output, partner's)."""

    def mixed(output: Tensor, target: Tensor) -> Tensor:
        return kept * loss(output, target) + (1 - kept) * loss(output, _partners(target))

    return mixed


def _partners(samples: Tensor) -> Tensor:
    return torch.cat([samples[-1:], samples[:-1]])  # in the memory layout of the samples, which `roll` does not keep
