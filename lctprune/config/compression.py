"""The settings of a compression: how much training it may take, and what that is spent on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lctprune.config.fields import FIRST, TRAINING, require_choices, setting
from lctprune.errors import ConfigError

SHARES = (0.05, 0.02, 0.1, 0.83)


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """Settings of a compression.

    Raises:
        ConfigError: a value is out of range.
    """

    epochs: float = setting(
        4.0,
        "All training together, in epochs of the main network's own training cost (forward and backward).",
        panel=FIRST,
    )
    shares: tuple[float, ...] | None = setting(
        None,
        "Shares of --epochs: critics, further critics, and each round of fine-tuning, after which the better half of "
        "the candidates goes on; in the last round one is narrowed in --steps. Default: 0.05,0.02,0.1,0.83; where the "
        "round before the last one would be too short to tell candidates apart, it is left out.",
        panel=TRAINING,
    )
    candidates: int = setting(2, "Candidates of the first round of fine-tuning.", panel=TRAINING)
    steps: int | None = setting(
        None,
        "Steps in which the most promising candidate is narrowed to the budget, each trained before the next. Default: "
        "so many that each leaves about 0.6 of the one before; 1 where the first would destroy most of what is known.",
        panel=TRAINING,
    )
    importance: Literal["auto", "magnitude", "bn", "lamp", "taylor", "exits"] = setting(
        "auto", "Criterion by which channels are taken out, see lctprune narrow --help.", panel=TRAINING
    )
    lr: float | None = setting(
        None, "Peak learning rate of fine-tuning. Default: a fifth of that of new networks.", panel=TRAINING
    )
    views: int = setting(
        3,
        "Passes of fine-tuning for which the main network, as the teacher, computes its outputs. Later passes repeat "
        "these, order and augmentation included, so that more of them cost the same. 0: every pass is new.",
        panel=TRAINING,
    )
    distill: float = setting(
        0.5, "Weight of imitating the main network's outputs in fine-tuning, 0 (labels only) to 1.", panel=TRAINING
    )

    def __post_init__(self) -> None:
        require_choices(self)
        object.__setattr__(self, "shares", None if self.shares is None else tuple(self.shares))
        self._require("epochs", 0 < self.epochs < math.inf, "a positive number")
        self._require("candidates", self.candidates >= 1, "at least 1")
        self._require("steps", self.steps is None or self.steps >= 1, "at least 1")
        self._require("lr", self.lr is None or 0 < self.lr < math.inf, "a positive number")
        self._require("views", self.views >= 0, "0 or more")
        self._require("distill", 0 <= self.distill <= 1, "between 0 and 1")
        shares = self.divided
        is_whole = len(shares) >= 3 and all(0 <= share < 1 for share in shares)
        is_whole = is_whole and abs(sum(shares) - 1) < 1e-6 and shares[0] > 0 and min(shares[2:]) > 0
        self._require("shares", is_whole, "3 numbers or more that add up to 1; only the second may be 0")

    @property
    def divided(self) -> tuple[float, ...]:
        """The shares, by default `SHARES`."""
        return SHARES if self.shares is None else self.shares

    def _require(self, name: str, holds: bool, limit: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {limit}")
