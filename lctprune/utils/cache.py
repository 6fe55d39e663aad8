"""The folder for what can be made again, such as unpacked copies of compressed files."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

UNUSED_DAYS = 30  # after which a file is removed


def cache_folder() -> Path:
    """Return the folder of this program's cache, by the convention of the system: below XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lctprune"


def made_once(path: Path, write: Callable[[Path], None]) -> Path:
    """Make a file unless it exists; a crash leaves none, and of two processes at a time both make it.

    Before one is made, files beside it that have not been used for `UNUSED_DAYS` are removed.

    Args:
        path: the file.
        write: function that writes to another path, which then gets the name.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_file():
        with suppress(OSError):  # of a cache that may only be read
            os.utime(path)  # the time of its last use
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unused(path.parent)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _remove_unused(folder: Path) -> None:
    oldest = time.time() - UNUSED_DAYS * 24 * 60 * 60
    for path in folder.iterdir():
        with suppress(OSError):
            if path.lstat().st_mtime < oldest:
                path.unlink()
