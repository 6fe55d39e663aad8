"""Name a file to predict for in a suggested command: one of the run's own data, else a made-up name."""

from __future__ import annotations

import os
from pathlib import Path

from lctprune.config.data import TABLES, DataConfig
from lctprune.data.images.listing import ENDINGS
from lctprune.data.load import is_table, location
from lctprune.data.raw_inputs import PLACEHOLDERS
from lctprune.runs import Run

SPLITS = ("test", "val", "train")  # in the order in which a file is looked for


def sample_input(run: Run) -> str:
    """Return a path that the networks of a run predict for.

    Args:
        run: run with data of its own or not.

    Returns:
        The path of a file of its data, relative to the current folder where it is below that; or a placeholder.
    """
    network, data = run.config.network, run.config.data
    is_text = network is not None and network.vocabulary is not None
    kind = "texts" if is_text else "images" if network is None or network.features is None else "rows"
    place = run.data_path or (data and location(data.config))
    found = _own_file(Path(place), kind, data.config) if place and data else None
    if found is None:
        return PLACEHOLDERS[kind]
    here = Path.cwd()
    return str(found.relative_to(here) if found.is_relative_to(here) else found)


def _own_file(place: Path, kind: str, config: DataConfig) -> Path | None:
    if place.is_file():
        return place if kind == "rows" and is_table(config) else None
    if kind == "images":
        folders = (place / name for name in SPLITS)
        return next(filter(None, map(_first_image, folders)), None) or _first_image(place)
    endings = TABLES if kind == "rows" else (".tsv",)
    files = (place / f"{name}{ending}" for name in SPLITS for ending in endings)
    return next((path for path in files if path.is_file()), None)


def _first_image(folder: Path) -> Path | None:
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(tuple(ENDINGS)):
                return Path(path, name)
    return None
