"""Text of the command line to the values that the library takes."""

from __future__ import annotations

from pathlib import Path

from lctprune.errors import ConfigError
from lctprune.models import NetworkConfig
from lctprune.sources import TORCHVISION


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


def data_name(name: str) -> str:
    """A known data set's name as it is; of a folder the absolute path, so that a run finds its data from anywhere."""
    return name if name == "digits" or name in TORCHVISION or not Path(name).is_dir() else str(Path(name).resolve())
