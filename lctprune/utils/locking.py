"""Lock a folder that one process may write at a time; the lock ends with the process, however that ends."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lctprune.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Hold the lock of a file inside the block; nothing is written to it.

    The system keeps the lock, and takes it back when the process ends: none is ever stale.

    Args:
        file: file that stays as it is, such as config.json.
        what: what is locked, for messages.

    Raises:
        RunError: another process has the lock.
    """
    if fcntl is None or not os.access(file, os.W_OK):
        yield
        return
    with file.open("r+b") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{what} is written by another process{_holder(file)}; wait until it ends, or stop it"
            ) from error
        except OSError:  # a file system without locks
            yield
            return
        yield


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder inside the block.

    Raises:
        RunError: another process has the lock, or this system has no such locks.
        OSError: the folder cannot be opened.
    """
    if fcntl is None:
        raise RunError(f"{folder} cannot be locked on this system")
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{folder} is in use by another process") from error
        yield
    finally:
        os.close(descriptor)


def _holder(file: Path) -> str:
    """Name the process on this machine that has the lock, as far as the system says."""
    with suppress(OSError):
        place = re.escape(f":{file.stat().st_ino}")
        if match := re.search(rf"FLOCK\s+ADVISORY\s+WRITE\s+(\d+)\s+\S+{place}\s", Path("/proc/locks").read_text()):
            return f" ({match[1]} on this machine)"
    return ", perhaps on another machine"
