"""Show on stderr that a command works, on what and how far it is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from lctprune.cli.console import printed_warnings, stderr
from lctprune.models.names import require_plausible
from lctprune.utils.names import visible
from lctprune.utils.steps import STEPS

SILENT_SECONDS = 3.0  # without a line where there is no terminal


def load_pytorch(model: str | None = None) -> None:
    """Import PyTorch, which takes seconds, and say so on a terminal.

    Args:
        model: name of a network that is needed; a mistyped one is refused before.
    """
    if model is not None:
        require_plausible(model)
    with stderr().status("Loading PyTorch"):
        import torch  # noqa: F401


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show what is done until the block ends, and then the library's warnings as notes.

    Args:
        what: description such as "Measuring every exit"; steps that the library logs stand in its place.
    """
    console = stderr()
    with printed_warnings(console), _bar(console, what) if console.is_terminal else _lines(console, what):
        yield


class _Steps(logging.Handler):
    """Keeps the last step: its description, number and count."""

    def __init__(self, what: str) -> None:
        super().__init__(logging.INFO)
        self.what, self.number, self.count = what, 0, 0

    @property
    def line(self) -> str:
        return self.what + (f" ({self.number} of {self.count})" if self.count else "")

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            self.what, self.number, self.count = record.args  # type: ignore[assignment]  # as `stepping` gives them


@contextmanager
def _listening(steps: _Steps) -> Iterator[None]:
    level, propagates = STEPS.level, STEPS.propagate
    STEPS.addHandler(steps)
    STEPS.setLevel(logging.INFO)
    STEPS.propagate = False  # a library that sets up logging would print steps a second time
    try:
        yield
    finally:
        STEPS.removeHandler(steps)
        STEPS.setLevel(level)
        STEPS.propagate = propagates


@contextmanager
def _bar(console: Console, what: str) -> Iterator[None]:
    text = TextColumn("{task.description}", markup=False)
    with Progress(SpinnerColumn(), text, BarColumn(20), MofNCompleteColumn(), console=console, transient=True) as bar:
        task = bar.add_task(visible(what), total=None)

        class Drawn(_Steps):
            def emit(self, record: logging.LogRecord) -> None:
                super().emit(record)
                bar.update(task, description=visible(self.what), completed=self.number - 1, total=self.count)

        with _listening(Drawn(what)):
            yield


@contextmanager
def _lines(console: Console, what: str) -> Iterator[None]:
    """Print what is done, at most every few seconds, and nothing if all is over before."""
    steps, is_over = _Steps(what), threading.Event()

    def print_lines() -> None:
        last = ""
        while not is_over.wait(SILENT_SECONDS):
            if (line := steps.line) != last:
                last = line
                console.print(line)

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        with _listening(steps):
            yield
    finally:
        is_over.set()
        printer.join()
