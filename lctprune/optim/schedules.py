"""How the learning rate and the ramps change over training."""

from __future__ import annotations

import math

from lctprune.config.training import TrainConfig, parse_ramp


def learning_rate(progress: float, config: TrainConfig) -> float:
    """The rate when a share `progress` (0 to 1) of all steps is done; `config` must be resolved."""
    highest = config.lr or 0.0
    if config.schedule == "step":
        return highest * 0.1 ** ((progress >= 1 / 2) + (progress >= 3 / 4))
    if progress < config.warmup:
        return highest * min(1.0, max(progress, 1e-3) / config.warmup)
    return highest * 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))


def ramp_at(progress: float, name: str, value: float | str) -> float:
    """A setting that may change over training, when a share `progress` (0 to 1) of all steps is done."""
    begin, end = parse_ramp(name, value)
    return begin + (end - begin) * progress
