"""What model.json says of a run's progressive network, as typed values; the kinds of networks of several exits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lctprune.errors import ConfigError

ENSEMBLE, PROGRESSIVE = "ensemble", "progressive"  # folders in a run, and kinds of candidates


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What becomes of samples that may leave early."""

    samples: int
    accuracy: float
    main_accuracy: float
    mean_flops: float
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_fractions(accuracy=self.accuracy, main_accuracy=self.main_accuracy)
        if any(not 0 <= each <= 1 for each in self.shares) or not self.mean_flops >= 0 or self.samples < 1:
            raise ConfigError("shares must be between 0 and 1, mean_flops at least 0, and samples at least 1")


@dataclass(frozen=True, kw_only=True)
class Leaves:
    """An exit at which samples leave."""

    name: str


@dataclass(frozen=True, kw_only=True)
class ProgressiveRecord:
    """A progressive network: its exits, and figures on validation samples that it was not fitted on, and on test."""

    exits: tuple[Leaves, ...]
    checked_on: Figures
    test: Figures
    trained_with: dict[str, Any]

    def __post_init__(self) -> None:
        if not len(self.exits) == len(self.checked_on.shares) == len(self.test.shares) > 0:
            raise ConfigError(f"exits has {len(self.exits)} entries; shares must have as many")


def _require_fractions(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}; it must be between 0 and 1")
