"""Progress of training: one live line an epoch on a terminal, plain lines elsewhere."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lctprune.config.metric import score_text
from lctprune.errors import INTERRUPTED, LctpruneError, TrainingInterrupted
from lctprune.training.loop import Progress

PLAIN_SECONDS = 60  # between two lines of one epoch where there is no terminal


class InterruptedCommand(LctpruneError):  # noqa: N818
    """A command was stopped by a signal, after a checkpoint."""

    exit_code = INTERRUPTED


def show_progress(steps: Iterable[Progress], console: Console) -> None:
    """Draw training's progress until it ends."""
    try:
        _show(steps, console)
    except TrainingInterrupted as error:  # which typer would make silent
        raise InterruptedCommand(str(error)) from error


def _show(steps: Iterable[Progress], console: Console) -> None:
    last_line = time.monotonic()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for progress in steps:
            line = progress_line(progress)
            if progress.val_accuracy is not None:
                live.update(Text(""), refresh=console.is_terminal)
                console.print(line)
            elif console.is_terminal:
                live.update(Text(line), refresh=True)
            elif time.monotonic() - last_line > PLAIN_SECONDS:
                console.print(line)
            else:
                continue
            last_line = time.monotonic()


def progress_line(progress: Progress) -> str:
    """One line: where training is, how fast, the losses of all exits, their validation scores, time left."""
    losses = " ".join(f"{loss:.3f}" for loss in progress.losses)
    left = datetime.timedelta(seconds=round(progress.seconds_left))
    parts = [
        f"epoch {progress.epoch}/{progress.epochs}",
        f"step {progress.step}/{progress.steps}",
        f"{progress.images_per_s:.0f} samples/s",
        f"loss {losses}",
    ]
    if progress.val_score is not None:
        named = "" if progress.metric == "accuracy" else f"{progress.metric} "
        scores = " ".join(score_text(score, progress.metric) for score in progress.val_score)
        parts.append(f"validation {named}{scores}")
    return "  ".join([*parts, f"left {left}"])
