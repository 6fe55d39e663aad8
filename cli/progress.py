"""Progress of training: one live line an epoch on a terminal, plain lines elsewhere."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lctprune.cli.console import stderr
from lctprune.config.metric import score_text
from lctprune.models.external import is_own_function
from lctprune.runs import Run
from lctprune.training.distributed.process_group import is_spoken_for
from lctprune.training.loop import Progress
from lctprune.utils.names import shell_word

PLAIN_SECONDS = 60  # between two lines of one epoch where there is no terminal


def show_progress(steps: Iterable[Progress], console: Console) -> None:
    """Draw training's progress until it ends."""
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


def show_interruptible(steps: Iterable[Progress], run: Run) -> None:
    """Draw training's progress on stderr; where it is interrupted, say by which command it goes on."""
    try:
        show_progress(steps, stderr())
    except KeyboardInterrupt:
        if not is_spoken_for():
            stderr().print(how_to_go_on(run), soft_wrap=True)  # so that it can be copied
        raise


def how_to_go_on(run: Run) -> str:
    """Say by which command an interrupted run goes on, and from where."""
    model = run.config.network.model if run.config.network else ""
    named = f" --model {shell_word(model)}" if is_own_function(model) else ""
    epoch = f"from epoch {run.epochs_done + 1}" if run.epochs_done else "from the start, as no epoch was finished"
    return f"To go on {epoch}: lctprune resume {shell_word(run.path)}{named}"


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
