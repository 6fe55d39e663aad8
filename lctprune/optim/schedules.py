"""The learning rate over training."""

from __future__ import annotations

import math

from lctprune.config.training import ResolvedTrainConfig


def learning_rate(progress: float, config: ResolvedTrainConfig) -> float:
    """Return the rate when the fraction `progress` (0 to 1) of all steps is done."""
    if config.schedule == "step":
        return config.lr * 0.1 ** ((progress >= 1 / 2) + (progress >= 3 / 4))
    if progress < config.warmup:
        return config.lr * min(1.0, max(progress, 1e-3) / config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))
