"""Change one thing in a file of a run: what a stranger, a broken disk or an editor might."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 60  # after which a command hangs
VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 2, 2.5, 1e308, -1e308, 10**12, 2**63, 10**40, 1e-320, float("nan"), float("inf")),
    *("", "x", "x" * 300, "a\u202eb\x1b[31m", "[/red]", "/dev/zero", "..", "1e308", [], {}, [1], {"a": 1}, [[]] * 3),
]
SUFFIXES = (".json", ".jsonl", ".csv", ".safetensors")
KINDS = ["value"] * 6 + ["remove", "cut", "empty", "byte", "byte", "line", "folder", "pipe", "link", "gone"]


@contextmanager
def no_hang() -> Iterator[None]:
    """Raise an error that no code expects where a command goes on for too long."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it hangs at {frame}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def files_of(run: Path) -> list[Path]:
    """List the files of a run that its commands read; nothing but other programs reads the weights beside a choice."""
    found = (path.relative_to(run) for path in run.rglob("*") if path.suffix in SUFFIXES)
    return sorted(path for path in found if path.parts[0] != "selected" or path.suffix != ".safetensors")


def mutate(path: Path, choice: random.Random) -> str:
    """Change a file in one way, and say how."""
    content, kind = path.read_bytes(), choice.choice(KINDS)
    if kind in ("value", "remove"):
        return f"{kind} {_in_values(path, content, choice, remove=kind == 'remove')}"
    if kind == "byte":
        end = 8 + _header_length(content) if path.suffix == ".safetensors" and choice.random() < 0.8 else len(content)
        place = choice.randrange(end)
        path.write_bytes(content[:place] + bytes([choice.randrange(256)]) + content[place + 1 :])
        return f"byte {place}"
    if kind == "line":
        lines = content.split(b"\n")
        del lines[choice.randrange(len(lines))]
        path.write_bytes(b"\n".join(lines))
        return kind
    path.unlink()
    if kind == "cut":
        path.write_bytes(content[: choice.randrange(len(content))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("nowhere")
    return kind


def _in_values(path: Path, content: bytes, choice: random.Random, *, remove: bool) -> str:
    """Change or remove a value that the file holds."""
    if path.suffix == ".json":
        document = json.loads(content)
        what = _in_document(document, choice, remove=remove)
        path.write_text(json.dumps(document))
        return what
    if path.suffix == ".safetensors":
        end = 8 + _header_length(content)
        header = json.loads(content[8:end])
        what = _in_document(header, choice, remove=remove)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
        return what
    lines = content.decode().splitlines()
    line = choice.randrange(len(lines))
    if path.suffix == ".jsonl":
        record = json.loads(lines[line])
        what = _in_document(record, choice, remove=remove)
        lines[line] = json.dumps(record)
    else:
        cells = lines[line].split(",")
        cell = choice.randrange(len(cells))
        cells[cell : cell + 1] = [] if remove else [what := str(choice.choice(VALUES))]
        what, lines[line] = f"cell {cell} {'' if remove else what!r:.50}", ",".join(cells)
    path.write_text("\n".join(lines))
    return f"{what} in line {line}"


def _in_document(value: Any, choice: random.Random, *, remove: bool) -> str:
    """Change a JSON value in place, at any depth, also inside a text that holds JSON."""
    key = choice.choice([*value] if isinstance(value, dict) else range(len(value)))
    inner, text = value[key], False
    if isinstance(inner, str) and inner[:1] in ("[", "{"):
        with suppress(ValueError):  # a word such as [UNK]
            inner, text = json.loads(inner), True
    if isinstance(inner, dict | list) and inner and choice.random() < 0.85:
        what = f"{key}.{_in_document(inner, choice, remove=remove)}"
        value[key] = json.dumps(inner) if text else inner
        return what
    if remove:
        del value[key]
        return str(key)
    other = choice.choice(VALUES)
    value[key] = json.dumps(other) if text else other
    return f"{key} {other!r:.50}"


def _header_length(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")
