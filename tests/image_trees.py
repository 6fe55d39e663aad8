"""Folders of files that are named as images are, for tests that list them without opening any."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from lctprune.config.data import DataConfig
from lctprune.data.images.labels import list_table
from lctprune.data.images.layout import list_folder
from lctprune.data.images.listing import ImageListing
from lctprune.errors import DataError, DataWarning


def touch(root: Path, paths: Iterable[str]) -> None:
    """Make files of a byte below `root`."""
    for name in paths:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def images(folders: str, count: int = 5) -> list[str]:
    """Name files in each of the folders, which stand in a line of words."""
    return [f"{folder}/{index}.png" for folder in folders.split() for index in range(count)]


def listed(root: Path, **options: Any) -> tuple[ImageListing, list[str]]:
    """List a folder or a table; return its images, and the notes without the path of `root`."""
    config = DataConfig(name=str(root), **{"val_fraction": 0.2, **options})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        listing = list_table(config) if config.is_table else list_folder(config)
    assert all(warning.category is DataWarning for warning in caught)
    return listing, [str(warning.message) for warning in caught]


def refusal(root: Path, **options: Any) -> str:
    """Return the message with which a folder or a table is refused: one line."""
    with pytest.raises(DataError) as caught:
        listed(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sizes(listing: ImageListing) -> tuple[int, ...]:
    """Return the number of images in the training, validation and test split."""
    assert all(len(paths) == len(labels) for paths, labels in listing[1:4])
    return tuple(len(paths) for paths, _ in listing[1:4])


def names(files: Any, root: Path) -> list[tuple[str, int]]:
    """Return path below `root` and label of each file."""
    paths, labels = files
    below = [Path(path).relative_to(root).as_posix() for path in paths]
    return list(zip(below, labels.tolist(), strict=True))
