"""Write files atomically, so that a reader sees the old file or the new one, never a part; read regular files only."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lctprune.errors import LctpruneError, RunError

MAX_TEXT_BYTES = 2**30  # of a file of text that is read whole
SMALL_BYTES, MOST_UNPACKED = 2**26, 10  # what any archive may unpack to, and how many times its size more


def open_regular(path: Path, error: type[LctpruneError] = RunError) -> io.BufferedReader:
    """Open a file for reading; a pipe, socket or device is refused at once, as reading it may never end.

    Args:
        path: file, or a link to one.
        error: type of the error for what is no regular file.

    Raises:
        OSError: there is no such file, or it cannot be read.
        LctpruneError: it is no regular file; of the type `error`.
    """
    require_regular(path, error)
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it was replaced in the meantime
        file.close()
        require_regular(path, error)
    return file


def require_regular(path: Path, error: type[LctpruneError] = RunError) -> None:
    """Refuse what is no regular file, before another library opens it.

    Args:
        path: file, or a link to one.
        error: type of the error.

    Raises:
        OSError: there is no such file.
        LctpruneError: it is a folder, pipe, socket or device; of the type `error`.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise error(f"{path} is {kinds.get(stat.S_IFMT(mode), 'a device')}; it must be a regular file")


def read_regular(path: Path, error: type[LctpruneError] = RunError, *, limit: int = MAX_TEXT_BYTES) -> bytes:
    """Read a whole file, as `open_regular` opens it.

    Args:
        path: file, or a link to one.
        error: type of the error.
        limit: largest size, in bytes.

    Raises:
        OSError: there is no such file, or it cannot be read.
        LctpruneError: it is no regular file, or too large; of the type `error`.
    """
    with open_regular(path, error) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise error(f"{path} has more than {limit // 2**20} MiB; a file of this kind may have no more")
    return content


def require_no_bomb(file: IO[bytes]) -> None:
    """Refuse a zip archive that unpacks to far more than its own size; PyTorch compresses nothing in one but code.

    Args:
        file: any file, read from its beginning afterwards.

    Raises:
        ValueError: it is such an archive.
    """
    size = file.seek(0, os.SEEK_END)
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > SMALL_BYTES + MOST_UNPACKED * size:
            raise ValueError(f"an archive of {size:,} bytes that unpacks to {unpacked:,}")
    file.seek(0)


def write_atomically(path: Path, content: bytes | memoryview | Iterable[bytes | memoryview]) -> None:
    """Write a file, and make its folder; a crash leaves the old file or the new one, never a part.

    Args:
        path: output file.
        content: content, whole or in parts, of which one is held in memory at a time.

    Raises:
        OSError: the folder cannot be written to; the error names the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, [content] if isinstance(content, bytes | memoryview) else content)
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error


def _replace(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove what a process left that was killed while it wrote the file `name`."""
    for leftover in folder.glob(f".{name}.*"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a loss of power, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


def near_miss(path: Path, holding: str = "") -> str:
    """Ask whether a file or folder beside a path that does not exist was meant, whose name is alike; else "".

    Args:
        path: path that a user gave.
        holding: name of a file that a folder must hold to be meant; by default any file or folder may be.
    """
    try:
        beside = [] if path.exists() else [each.name for each in path.parent.iterdir() if (each / holding).exists()]
    except (OSError, ValueError):  # there is no such parent, it cannot be read, or has a zero byte in its name
        return ""
    found = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.75)
    return f"; did you mean {path.parent / found[0]}?" if found else ""


def require_run(path: Path, config: str, runs: str) -> None:
    """Refuse a folder that is no run directory, with the name of one that may be meant.

    Args:
        path: run directory.
        config: name of the file that every run has.
        runs: folder in which most runs are.

    Raises:
        RunError: it does not exist, or is a folder without that file.
    """
    if os.path.lexists(path / config) or path.is_file():  # which is looked at where it is read
        return
    reason = f"it has no {config}" if path.exists() else "it does not exist"
    below = Path(runs) / path.name
    meant = f"; did you mean {below}?" if (below / config).exists() else near_miss(path, config)
    meant = meant or near_miss(below, config) or "; give one that lctprune train made"
    raise RunError(f"{path} is not a run directory ({reason}){meant}")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN, no infinity), atomically."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
