"""The folder for what can be made again, such as unpacked copies of compressed files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of this program's cache, by the convention of the system: below XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lctprune"


def made_once(path: Path, write: Callable[[Path], None]) -> Path:
    """Make a file unless it exists; a crash leaves none, and of two processes at a time both make it.

    Args:
        path: the file.
        write: function that writes to another path, which then gets the name.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
