"""Keep a training's state within an epoch: every so many steps or minutes, and when a signal asks it to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = 600.0  # between two checkpoints, unless a number of steps is given
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Keeper:
    """Say when a checkpoint within an epoch is due, and when training has been asked to stop.

    Rank 0 decides for all processes; the others only take note of signals, so that one that is sent to all of them
    does not end them before rank 0 has what it needs for the checkpoint.

    Args:
        every: number of steps between two checkpoints; None for `SECONDS`.
        decides: whether this process is rank 0, or alone.
    """

    def __init__(self, every: int | None, *, decides: bool = True) -> None:
        self._every, self._decides = every, decides
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
        if self.wish and self._signal is not None:  # it came after the last step that could have stopped for it
            signal.raise_signal(self._signal)

    def is_due(self, step: int) -> bool:
        """Tell whether the state after this step of the epoch, from 1, is to be kept, as rank 0 decides."""
        if not self._decides:
            return False
        timely = step % self._every == 0 if self._every else time.monotonic() - self._written > SECONDS
        return timely or self._signal is not None

    @property
    def wish(self) -> str:
        """The name of the signal that asked to stop; "" if none did."""
        return signal.Signals(self._signal).name if self._signal is not None and self._decides else ""

    def written(self) -> None:
        """Take note of a checkpoint."""
        self._written = time.monotonic()
