"""Write files atomically: a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from lctprune.errors import RunError


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file, and make its folder; a crash leaves the old file or the new one, never a part.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def why_not_writable(folder: Path) -> str | None:
    """Say why no file can be made in a folder, or no folder of this name, if there is none; None if it can.

    Nothing is left behind.

    Args:
        folder: the folder.
    """
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def require_writable(folder: Path, remedy: str) -> None:
    """Refuse a folder in which no file can be made.

    Args:
        folder: the folder, which need not exist yet.
        remedy: what to do instead, for the message.

    Raises:
        RunError: no file can be made there.
    """
    if reason := why_not_writable(folder):
        raise RunError(f"{folder} cannot be written ({reason}); {remedy}")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN, no infinity), atomically."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
