"""A command that runs as one of several processes."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from lctprune.errors import FAILED, ProcessLostError
from lctprune.training.distributed.process_group import is_spoken_for, record_failure
from lctprune.utils.names import visible


def end_as_lost(error: ProcessLostError) -> None:
    """End this process because another one does not answer, and that one with it."""
    _report(str(error), FAILED, is_cause=True)
    if error.sibling is not None:
        with suppress(ProcessLookupError):
            os.kill(error.sibling, signal.SIGKILL)  # it is stopped: it cannot hear a request
    os._exit(FAILED)


def end_process(line: str, code: int, *, is_cause: bool) -> NoReturn:
    """End this process with the line that says why, on stderr unless the launcher is going to say it."""
    _report(f"rank {os.environ['RANK']}: {line}", code, is_cause=is_cause)
    os._exit(code)  # without waiting for threads that wait for other processes


def _report(message: str, code: int, *, is_cause: bool) -> None:
    record_failure(message, code, is_cause=is_cause)
    if not is_spoken_for():
        typer.echo(f"lctprune: error: {visible(message)}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
