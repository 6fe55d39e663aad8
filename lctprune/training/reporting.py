"""Report the progress of a training to a program's user."""

from __future__ import annotations

import sys

from lctprune.config.metric import score_text
from lctprune.training.progress import Progress


def write_epoch(progress: Progress) -> None:
    """Write a line to stderr when an epoch is over: training losses and validation scores of the exits, time left."""
    if progress.val_score is None:
        return
    losses = " ".join(f"{loss:.3f}" for loss in progress.losses)
    scores = " ".join(score_text(score, progress.metric) for score in progress.val_score)
    sys.stderr.write(
        f"epoch {progress.epoch}/{progress.epochs}  training loss {losses}  validation {progress.metric} {scores}  "
        f"{progress.seconds_left:.0f} s left\n"
    )
