"""Progress of training: one live line an epoch on a terminal, plain lines elsewhere."""

from __future__ import annotations

import datetime
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

from lctprune.cli.console import stderr
from lctprune.config.metric import score_text
from lctprune.errors import INTERRUPTED, LctpruneError, TrainingInterrupted
from lctprune.measure.candidates import MAIN
from lctprune.runs import Run
from lctprune.training.distributed.process_group import is_spoken_for
from lctprune.training.progress import Progress
from lctprune.utils.environment import fewer_threads
from lctprune.utils.wording import counted
from lctprune.workflows.members import trained_exits

PLAIN_SECONDS = 60  # between two lines of one epoch where there is no terminal
ESTIMATE_SECONDS = 2  # after which the time left is known well enough
MOST_NAMED, LONGEST_NAME, NUMBER = 5, 9, 6  # exits; characters of a name and of a number in a table of epochs
_EPOCH, _LEFT = "   epoch", "      left"


class InterruptedCommand(LctpruneError):  # noqa: N818
    """A command was stopped by a signal; the message ends with the command that goes on."""

    exit_code = INTERRUPTED

    @classmethod
    def of(cls, error: KeyboardInterrupt, remedy: str) -> InterruptedCommand:
        """Make the error of an interruption, which typer would make silent.

        Args:
            error: the interruption.
            remedy: how to go on.
        """
        return cls(f"{str(error) or 'interrupted'}; {remedy}")


class EpochTable:
    """Lines of one epoch each, below a heading that says which number is which.

    Args:
        names: names of the exits.
        metric: name of the metric.
        width: columns of the terminal; losses are left out where it is too narrow, and then exits, evenly.
        first: number of the first exit; exits of a run that was added to another one, which have a number above 0,
            are called by their numbers.
        epochs: number of all epochs, which stands behind that of each.
        has_all: whether all exits are shown whatever the width, as where there is no terminal.
    """

    def __init__(
        self, names: Sequence[str], metric: str, width: int, *, first: int = 0, epochs: int = 1, has_all: bool = False
    ) -> None:
        self._epoch = "epoch".rjust(max(len(_EPOCH), 2 * len(str(epochs)) + 1))
        short = ["main" if name == MAIN else name for name in names]
        self.legend = ""
        if first or len(short) > MOST_NAMED or max(map(len, short)) > LONGEST_NAME:
            has_main = not first or names[-1] == MAIN
            numbers = {str(first + index): name for index, name in enumerate(names[: len(names) - has_main])}
            self.legend = ", ".join(f"{number} {name}" for number, name in numbers.items())
            short = [*numbers, *["main"] * has_main]
        self._titles = ["training loss", f"validation {metric}"]
        least = max(NUMBER, *(math.ceil((len(title) + 1) / len(short)) - 1 for title in self._titles))
        count, fitting = len(short), (width - len(self._epoch) - len(_LEFT)) // (least + 1)
        shown = count if has_all else min(count, max(2, fitting))
        self._kept = [index * (count - 1) // max(1, shown - 1) for index in range(shown)]  # the first and the last
        if shown < count:
            self.legend += f" (the lines below have room for {shown} of {count})"
        self._names = [short[index].rjust(least) for index in self._kept]
        self._block = sum(len(name) + 1 for name in self._names)
        self._has_losses = len(self._epoch) + 2 * self._block + len(_LEFT) <= width

    @property
    def heading(self) -> str:
        """The two lines above the first epoch."""
        titles = self._titles if self._has_losses else self._titles[1:]
        names = "".join(f" {name}" for name in self._names) * len(titles)
        above = "".join(title.rjust(self._block) for title in titles)
        return f"{' ' * len(self._epoch)}{above}\n{self._epoch}{names}{_LEFT}"

    def row(self, progress: Progress) -> str:
        """Return the line of an epoch that is over."""
        losses = [f"{loss:.3f}" for loss in self._shown(progress.losses)] if self._has_losses else []
        scores = [score_text(score, progress.metric) for score in self._shown(progress.val_score or ())]
        widths = [len(name) for name in self._names]
        cells = "".join(
            f" {text.rjust(width)}" for texts in (losses, scores) for text, width in zip(texts, widths, strict=False)
        )
        epoch = f"{progress.epoch}/{progress.epochs}".rjust(len(self._epoch))
        return f"{epoch}{cells}{_duration(progress.seconds_left).rjust(len(_LEFT))}"

    def _shown(self, values: Sequence[float]) -> list[float]:
        return [values[index] for index in self._kept if index < len(values)]


def show_progress(
    steps: Iterable[Progress], console: Console, names: Sequence[str] = (), *, first: int = 0, has_legend: bool = True
) -> None:
    """Draw training's progress until it ends: where it is and how long it takes, and a line of figures an epoch.

    Args:
        steps: progress of a training.
        console: console to draw on.
        names: names of the exits, by default their numbers.
        first: number of the first exit, see `EpochTable`.
        has_legend: whether a line says which number is which exit, where numbers stand above the figures.
    """
    start = last_line = time.monotonic()
    table, has_estimate = None, False
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for progress in steps:
            now = time.monotonic()
            if progress.val_accuracy is not None:
                live.update(Text(""), refresh=console.is_terminal)
                if table is None:
                    named = names or [*map(str, range(len(progress.losses)))]
                    table = EpochTable(
                        named,
                        progress.metric,
                        console.width,
                        first=first,
                        epochs=progress.epochs,
                        has_all=not console.is_terminal,
                    )
                    if table.legend and has_legend:
                        console.print(f"Exits: {table.legend}")
                    for line in table.heading.splitlines():
                        console.print(line)
                console.print(table.row(progress))
            elif table is None and not has_estimate and progress.step > 1 and now - start > ESTIMATE_SECONDS:
                has_estimate = True
                console.print(f"About {_duration(progress.seconds_left)} left, by the first {progress.step} steps")
            elif console.is_terminal:
                live.update(Text(progress_line(progress, console.width)), refresh=True)
            elif now - last_line > PLAIN_SECONDS:
                console.print(progress_line(progress))
            else:
                continue
            last_line = now


@contextmanager
def resumable(run: Run) -> Iterator[None]:
    """Say by which command a trained run goes on, where what is done inside the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt as error:
        if is_spoken_for():
            raise
        raise InterruptedCommand.of(error, _after_training(run)) from error


def show_interruptible(steps: Iterable[Progress], run: Run) -> None:
    """Draw training's progress on stderr; where it is interrupted, say by which command it goes on."""
    note_on_threads()
    try:
        names, first = trained_exits(run)
        show_progress(steps, stderr(), names, first=first)
    except KeyboardInterrupt as error:
        if is_spoken_for() and not isinstance(error, TrainingInterrupted):
            raise
        raise InterruptedCommand.of(error, how_to_go_on(run)) from error


def note_on_threads() -> None:
    """Say so on stderr before a training for which other programs leave too few cores."""
    if is_spoken_for() or torch.accelerator.is_available() or (found := fewer_threads()) is None:
        return
    busy, free = found
    stderr().print(
        f"Note: other programs keep {busy} of {counted(os.cpu_count() or 1, 'core')} busy; with --threads {free} "
        "this may be several times faster."
    )


def how_to_go_on(run: Run) -> str:
    """Say by which command an interrupted run goes on, and from where."""
    if run.is_finished:
        return _after_training(run)
    header, place = run.header, "from the start, as no epoch was finished"
    if header.epoch or header.step:
        place = f"from epoch {header.epoch + 1}{f', step {header.step + 1}' if header.step else ''}"
    return f"to go on {place}: {run.command('resume')}"


def _after_training(run: Run) -> str:
    return f"all epochs are trained; to go on from there: {run.command('resume')}"


def progress_line(progress: Progress, width: float = math.inf) -> str:
    """One line in an epoch: where training is and the time left, and as much of losses and pace as the width takes."""
    losses = " ".join(f"{loss:.3f}" for loss in progress.losses)
    place = [f"epoch {progress.epoch}/{progress.epochs}", f"step {progress.step}/{progress.steps}"]
    pace, left = f"{progress.images_per_s:.0f} samples/s", f"left {_duration(progress.seconds_left)}"
    wholes = ([*place, pace, f"loss {losses}", left], [*place, f"loss {losses}", left], [*place, pace, left])
    lines = ["  ".join(whole) for whole in wholes]
    return next((line for line in lines if len(line) <= width), lines[-1])


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
