"""Text of the command line to the values that the library takes."""

from __future__ import annotations

from pathlib import Path

from lctprune.errors import ConfigError
from lctprune.models import NetworkConfig


def group_count(groups: int | None, split_at: str | None) -> int:
    """--groups, unless --split-at says it."""
    if groups is not None and split_at:
        raise ConfigError("--groups and --split-at both say how many groups there are; give one of them")
    return NetworkConfig().groups if groups is None else groups


def names(text: str | None) -> tuple[str, ...] | None:
    """Comma-separated names."""
    return tuple(name.strip() for name in text.split(",")) if text else None


def numbers(text: str | None) -> tuple[int, ...] | None:
    """Comma-separated whole numbers, of --critic-depth."""
    if not text:
        return None
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise ConfigError(f"critic depth is {text!r}; it must be whole numbers, as 1 or 3,2,1") from error


def existing_path(name: str) -> str:
    """The absolute path of a folder that exists, so that a run finds its data from anywhere; other text as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name
