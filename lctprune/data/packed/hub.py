"""Data sets of the Hugging Face hub, by the name `hf:NAME`: Parquet or tar files are fetched, and no script is run.

Data sets of other files are taken from the hub's own conversion to Parquet (https://huggingface.co/docs/dataset-viewer).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lctprune.data.images.listing import some
from lctprune.data.images.splits import SPLIT_WORDS
from lctprune.data.packed.shards import kind_of
from lctprune.errors import ConfigError, DataError, first_line

PREFIX = "hf:"
CONVERTED = "refs/convert/parquet"  # the hub's revision with its conversion
SECONDS = 10  # that the hub has to answer
_NAME = re.compile(r"hf:(\w[\w.-]*(?:/\w[\w.-]*)?)(?::([\w. -]+))?(?:@([\w./-]+))?")


def fetched(name: str) -> Path:
    """Fetch a data set, unless it is in the hub's cache, and return its folder there.

    Args:
        name: hf:OWNER/NAME, with :PART if it has several parts (configurations) and @REVISION for a certain state.

    Raises:
        ConfigError: the name has another form, or huggingface_hub is not installed.
        DataError: there is no such data set or part, or it cannot be fetched.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(
            f"{name!r} is no name of a data set; it must be hf:OWNER/NAME, hf:OWNER/NAME:PART or ...@REVISION"
        )
    repository, part, revision = match.groups()
    for state in [revision] if revision else ["main", CONVERTED]:
        if files := [file for file in _files(name, repository, state) if kind_of(file) in ("parquet", "tar")]:
            folder = _part_of(name, files, part)
            return _snapshot(name, repository, state, [f"{folder}*"]) / folder
    raise DataError(
        f"{name} has neither Parquet nor tar files on the hub; fetch it and give a folder of images or a table"
    )


def _files(name: str, repository: str, revision: str) -> list[str]:
    """List the files of a data set, on the hub or else in its cache; none if it has no such revision."""
    hub = _hub()
    try:
        found = hub.HfApi().dataset_info(repository, revision=revision, timeout=SECONDS)  # without repetitions
        return [file.rfilename for file in found.siblings]
    except hub.errors.RevisionNotFoundError:
        return []
    except Exception as error:  # those of the hub, and of the libraries that it reads the network by
        try:
            folder = Path(
                hub.snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True)
            )
        except Exception:
            raise _unreachable(name, error) from error
        return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]


def _part_of(name: str, files: Sequence[str], part: str | None) -> str:
    """Return the folder, with a slash behind it, that holds the files of one part; empty if there are no parts.

    Raises:
        DataError: there is no such part, several without one that is called default, or a part that is incomplete.
    """
    folders = {PurePosixPath(file).parts[0] if "/" in file else "" for file in files}
    folders = {"" if folder == "data" or folder.casefold() in SPLIT_WORDS else folder for folder in folders}
    if part is not None and part not in folders:
        raise DataError(f"{name} has no part {part!r}; it has {some(sorted(folders - {''}), 8) or 'none'}")
    chosen = part or next((each for each in ("default", "") if each in folders), None)
    if chosen is None and len(folders) > 1:
        parts = sorted(folders)
        raise DataError(f"{name} has {len(parts)} parts ({some(parts, 8)}); say which: {name}:{parts[0]}")
    folder = min(folders) if chosen is None else chosen
    if any(f"{folder}/partial-" in file for file in files):
        raise DataError(f"the hub has converted {name} in part only; fetch the data set and give its folder")
    return f"{folder}/" if folder else ""


def _snapshot(name: str, repository: str, revision: str, patterns: list[str]) -> Path:
    hub = _hub()
    wanted = [f"{pattern}{ending}" for pattern in patterns for ending in (".parquet", ".tar")]
    try:
        return Path(hub.snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> DataError:
    return DataError(
        f"{name} cannot be fetched from the Hugging Face hub ({first_line(error)}); check the name and the network, or "
        "give the folder of a copy"
    )


def _hub() -> Any:
    try:
        hub = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise ConfigError(
            "data of the Hugging Face hub needs huggingface_hub, which is not installed: pip install 'lctprune[hf]'"
        ) from error
    return hub
