"""Keep a training's state within an epoch: every so many steps or minutes, and when a signal asks it to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from lctprune.config.history import Row
from lctprune.errors import TrainingInterrupted
from lctprune.runs import Run
from lctprune.training.stage import Stage

SECONDS = 600.0  # between two checkpoints, unless a number of steps is given
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Keeper:
    """Write checkpoints within an epoch of a training in one process.

    Args:
        run: run that is written.
        every: number of steps between two checkpoints; None for `SECONDS`.
    """

    def __init__(self, run: Run, every: int | None) -> None:
        self._run, self._every = run, every
        self._written = time.monotonic()
        self._signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note the first signal that asks to stop, inside the block; a second one stops the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def note(number: int, frame: FrameType | None) -> None:
            self._signal = number
            restore()

        def restore() -> None:
            for number, handler in before.items():
                if signal.getsignal(number) is note:
                    signal.signal(number, handler)

        for number, handler in before.items():
            if handler in (signal.SIG_DFL, signal.default_int_handler):  # not one of the caller's, and not nohup's
                signal.signal(number, note)
        try:
            yield
        finally:
            restore()

    def after_step(self, stage: Stage, epoch: int, step: int, rows: Sequence[Row]) -> None:
        """Write a checkpoint if one is due.

        Args:
            stage: whole network.
            epoch: number of whole epochs.
            step: number of steps taken of the next epoch.
            rows: rows of metrics.csv.

        Raises:
            TrainingInterrupted: a signal asked to stop.
        """
        is_due = step % self._every == 0 if self._every else time.monotonic() - self._written > SECONDS
        if is_due or self._signal is not None:
            self._run.write_checkpoint(epoch, stage.tensors(), rows=rows, step=step, totals=stage.totals())
            self._written = time.monotonic()
        self._stop_if_asked()

    def after_epoch(self) -> None:
        """Take note of the checkpoint of a whole epoch.

        Raises:
            TrainingInterrupted: a signal asked to stop.
        """
        self._written = time.monotonic()
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._signal is not None:
            name = signal.Signals(self._signal).name
            raise TrainingInterrupted(f"stopped by {name}, after a checkpoint in {self._run.path}")
