"""Settings of long trainings: averaged weights, mixed pictures, gradients clipped and accumulated, an early end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lctprune.config.fields import setting
from lctprune.errors import ConfigError

LONG = "Long trainings"  # heading of --help


@dataclass(frozen=True, kw_only=True)
class LongTraining:
    """Settings of long trainings, all of them off by default; `TrainConfig` has them as its own fields.

    Raises:
        ConfigError: a value is out of range.
    """

    ema: float = setting(
        0.0,
        "Evaluate, keep and export an exponential moving average of the weights, with this decay per update: steadier "
        "than the last weights of a long training; 0.999 is usual. 0: the weights themselves.",
        panel=LONG,
    )
    mixup: float = setting(
        0.0,
        "Against overfitting: blend each batch with itself in another order, and its losses alike, in parts drawn from "
        "Beta(A, A); 0.2 is usual. 0: no blending.",
        panel=LONG,
    )
    cutmix: float = setting(
        0.0,
        "Against overfitting: paste a rectangle of another picture into each, and weigh the losses by area, drawn from "
        "Beta(A, A); 1 is usual. Beside --mixup, each batch gets one of both. 0: none.",
        panel=LONG,
    )
    clip_grad_norm: float | None = setting(
        None,
        "Against single steps that spoil a training: largest norm of the gradients of each group and of each critic.",
        panel=LONG,
    )
    accumulate: int = setting(
        1,
        "Batches whose gradients are averaged before weights change, for large batches in little memory.",
        panel=LONG,
    )
    patience: int | None = setting(
        None,
        "End the training when no exit has become better on the validation split in so many epochs.",
        panel=LONG,
    )
    keep: Literal["auto", "best", "last"] = setting(
        "auto",
        "Epoch whose networks are used: best (on the validation split, by the mean over exits), which is kept beside "
        "the last; last; or auto: best with --patience, else last.",
        panel=LONG,
    )
    log_every: int = setting(50, "Steps from one line of metrics.jsonl to the next.", panel=LONG)
    tensorboard: bool = setting(
        False, "Write losses and scores for TensorBoard too, into the run directory (extra tensorboard).", panel=LONG
    )

    def require_possible(self) -> None:
        """Check that each of these settings is in its range."""
        self._require_range("ema", 0 <= self.ema < 1, "at least 0 and less than 1")
        for name in ("mixup", "cutmix"):
            self._require_range(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        most = self.clip_grad_norm
        self._require_range("clip_grad_norm", most is None or 0 < most < math.inf, "a positive number")
        for name in ("accumulate", "log_every"):
            self._require_range(name, getattr(self, name) >= 1, "at least 1")
        self._require_range("patience", self.patience is None or self.patience >= 1, "at least 1")

    def _require_range(self, name: str, holds: bool, limit: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {limit}")
