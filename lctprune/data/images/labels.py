"""Image files and their labels in a CSV file: lines of path, label and, where the images are split, split."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import torch

from lctprune.config.data import DataConfig
from lctprune.data.images.label_table import Row, are_images, label_rows, name_images, read_lines
from lctprune.data.images.listing import (
    ENDINGS,
    Files,
    ImageListing,
    fingerprint_of,
    folders_in,
    require_no_empty,
    some,
)
from lctprune.data.images.splits import divided, is_cut, split_of, without_eval
from lctprune.errors import DataError

LIKELY_ENDINGS = (".jpg", ".png", ".jpeg", ".JPG", ".JPEG", ".PNG", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MARKED_TABLE = "_classes.csv"  # as Roboflow names it, with a column of 0 and 1 for each class
LINES_TO_TELL = 20  # of a file, by which a list of images is told from a table of numbers


class _Image(NamedTuple):
    """An image that a table lists: its split or "all", class, file, name in the fingerprint, and its line."""

    split: str
    label: str
    path: str
    name: str
    where: str


def lists_images(config: DataConfig) -> bool:
    """Return whether a table lists image files: a column has their names, or is called so; or --image-root is given."""
    if config.image_root is not None:
        return True
    try:
        lines = [cells for _, cells in read_lines(Path(config.name), LINES_TO_TELL)]
    except DataError:
        return False  # those who read it as a table of numbers say what is wrong
    columns = zip_longest(*(lines[1:] or lines), fillvalue="")
    return any(map(are_images, columns)) or (len(lines) > 1 and name_images(*lines[:2]))


def list_table(config: DataConfig) -> ImageListing:
    """List the images that a CSV file names, with the labels and splits that it gives them.

    Raises:
        DataError: the file cannot be read, columns or images are missing, or a label or a split is.

    Warns:
        DataWarning: the images are not split, lines are repeated, or a column of folds is not used.
    """
    table = Path(config.name)
    if config.task == "regression":
        raise DataError(f"{table} lists images, whose labels are classes; leave out `task=regression`")
    rows = label_rows(table, config.target)
    located = _located(table, rows, table.parent if config.image_root is None else Path(config.image_root))
    words = {word: split_of(word) for word in dict.fromkeys(row.split for row in rows)}
    splits = {"": "all"} if [*words] == [""] else _splits(table, words)
    images = [
        _Image(splits[row.split], row.label, located[row.path], row.path, f"{table}, line {row.line}") for row in rows
    ]
    return _listing(table, images, config)


def split_tables(splits: Mapping[str, str]) -> dict[str, Path]:
    """Return the table of labels in each folder of a split, if the training split has one and no class folders.

    Raises:
        DataError: another split has none.
    """
    tables = {split: Path(folder) / MARKED_TABLE for split, folder in splits.items()}
    if not tables["train"].is_file() or folders_in(splits["train"]):
        return {}
    for table in tables.values():
        if not table.is_file():
            raise DataError(f"{table} is missing, and {tables['train']} is not; add it, or remove {table.parent}")
    return tables


def list_tables(root: Path, tables: Mapping[str, Path], config: DataConfig) -> ImageListing:
    """List the images of folders of splits, of which each holds a table of its images and their classes.

    Args:
        root: folder of the splits.
        tables: table in the folder of each split.
        config: fraction of the validation split, and the seed.

    Raises:
        DataError: a file cannot be read, columns or images are missing, or a class is.
    """
    images = []
    for split, table in sorted(tables.items(), reverse=True):
        rows, folder = label_rows(table, None), table.parent
        located = _located(table, rows, folder)
        images += [
            _Image(split, row.label, located[row.path], f"{folder.name}/{row.path}", f"{table}, line {row.line}")
            for row in rows
        ]
    return _listing(root, images, config)


def _listing(source: Path, images: Sequence[_Image], config: DataConfig) -> ImageListing:
    """Make a listing: number the classes, and divide the images."""
    classes = _classes(source, images)
    numbers = {name: number for number, name in enumerate(classes)}
    parts = {
        split: _files([(image.path, numbers[image.label]) for image in images if image.split == split])
        for split in {image.split for image in images}
    }
    divisions = divided(source, parts, config, classes)
    texts = {image.path: image.name for image in images}
    names = (
        f"{texts[path]}\t{classes[label]}"
        for paths, labels in divisions
        for path, label in zip(paths, labels.tolist(), strict=True)
    )
    return ImageListing(classes, *divisions, fingerprint_of(names), is_cut(parts))


def _classes(source: Path, images: Sequence[_Image]) -> tuple[str, ...]:
    """Return the labels of the training split, sorted as text.

    Raises:
        DataError: there are fewer than two, or another split has others.
    """
    classes = {image.label for image in images if image.split in ("train", "all")}
    if len(classes) < 2:
        raise DataError(f"{source} has {len(classes)} class ({some(classes)}); classification needs at least 2")
    for image in images:
        if image.label not in classes:
            raise DataError(
                f"{image.where}: {image.label!r} is a class that no image of the training split has; add some or "
                "remove the line"
            )
    return tuple(sorted(classes))


def _files(pairs: Sequence[tuple[str, int]]) -> Files:
    return [path for path, _ in pairs], torch.tensor([label for _, label in pairs], dtype=torch.int64)


def _splits(table: Path, words: Mapping[str, str | None]) -> dict[str, str]:
    """Return the split of each word in the column of splits.

    Raises:
        DataError: a word names no split, there is no training split, or no other one.
    """
    unknown = sorted(word for word, split in words.items() if split is None)
    if unknown:
        shown = some([word or "an empty cell" for word in unknown])
        raise DataError(f"{table} has splits of unknown names ({shown}); they must be train, val or test")
    found: dict[str, list[str]] = {}
    for word, split in words.items():
        if split and word.casefold() not in map(str.casefold, found.get(split, ())):
            found.setdefault(split, []).append(word)
    splits = without_eval(found, table)
    if "train" not in splits or len(splits) < 2:
        raise DataError(
            f"{table} has only the split {some(sorted(words))}; it needs train and test (or val), or no such column"
        )
    roles = {name.casefold(): split for split, name in splits.items()}
    return {word: roles[word.casefold()] for word in words}


def _located(table: Path, rows: Sequence[Row], root: Path) -> dict[str, str]:
    """Return the file that each path names.

    Raises:
        DataError: files are missing, or empty.
    """
    located, missing, empty = {}, [], []
    for row in rows:
        for candidate in _candidates(row.path):
            path = os.path.join(root, candidate)  # noqa: PTH118
            if os.path.isfile(path):  # noqa: PTH113
                located[row.path] = path
                if not os.path.getsize(path):  # noqa: PTH202
                    empty.append(path)
                break
        else:
            missing.append(row)
    if missing:
        lines = some([f"{row.path} in line {row.line}" for row in missing])
        raise DataError(
            f"{len(missing)} of the {len(rows)} images of {table} are missing in {root} ({lines}); say where they are: "
            "`image_root=DIR` (of a run: `data_path=DIR`), or remove their lines"
        )
    require_no_empty(empty)
    return located


def _candidates(text: str) -> Iterator[str]:
    """Yield how a file may be called: with other slashes, in both forms of Unicode, and with another ending."""
    for name in dict.fromkeys((text, text.replace("\\", "/"))):
        for form in ("NFC", "NFD"):
            normal = unicodedata.normalize(form, name)
            yield normal
            stem, ending = os.path.splitext(normal)  # noqa: PTH122
            if ending.lower() in ENDINGS:
                yield from (stem + ending.lower(), stem + ending.upper())
            else:
                yield from (normal + each for each in LIKELY_ENDINGS)
