"""Which folders are splits, and which are classes.

A folder that holds train/ with folders in it, or train/ and a val/ or test/, is a folder of splits. Any other folder is
a folder of classes, from which the splits are drawn.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lctprune.config.data import DataConfig
from lctprune.data.images.labels import list_tables, split_tables
from lctprune.data.images.listing import (
    Files,
    ImageListing,
    Omissions,
    class_folders,
    fingerprint_of,
    folders_in,
    has_images,
    labelled_images,
    nfc,
    some,
)
from lctprune.data.images.split_folders import LAYOUT, csv_remedy, require_no_splits, splits_among, words_of
from lctprune.data.images.splits import SPLIT_WORDS, divided, is_cut, split_of
from lctprune.errors import DataError, DataWarning
from lctprune.utils.wording import counted

SENTENCES = "the files train.tsv and test.tsv, with lines sentence<TAB>label"
MOST_WRAPPINGS = 8  # folders that hold nothing but a folder


def list_folder(config: DataConfig) -> ImageListing:
    """List the images of a folder of splits, or of a folder of classes.

    Raises:
        DataError: a folder or its images are missing, or a class is too small or unknown.

    Warns:
        DataWarning: files, links or folders are left out, or there are no splits.
    """
    omissions = Omissions()
    root = unwrapped(Path(config.name))
    folders = folders_in(root)
    splits = splits_among(root, folders)
    if splits and (tables := split_tables(splits)):
        return list_tables(root, tables, config)
    if splits:
        classes, parts = _of_splits(root, folders, splits, omissions)
    else:
        classes, parts = _of_classes(root, folders, omissions)
    omissions.warn(root)
    train, val, test = divided(root, parts, config, classes)
    fingerprint = fingerprint_of(_below(Path(config.name), [*train[0], *val[0], *test[0]]))
    return ImageListing(classes, train, val, test, fingerprint, is_cut(parts))


def _below(root: Path, paths: Iterable[str]) -> Iterator[str]:
    """Yield the paths relative to a folder, with slashes."""
    start = os.path.join(root, "")  # noqa: PTH118, strings: os.path.relpath takes 70 microseconds per file
    for path in paths:
        name = path[len(start) :] if path.startswith(start) else os.path.relpath(path, root)
        yield name.replace(os.sep, "/")


def unwrapped(root: Path, *, is_split: bool = False) -> Path:
    """Return the folder within folders that hold nothing but one folder, as archives unpack to name/name/train.

    Args:
        root: outermost folder.
        is_split: whether it is a split itself, in which a folder may have the name of a split, too.
    """
    inner = root
    for _ in range(MOST_WRAPPINGS):
        folders = folders_in(inner)
        if len(folders) != 1 or (any(map(split_of, folders)) and not is_split) or has_images(inner):
            return inner if folders and not has_images(inner) else root
        inner = Path(*folders.values())
    return root


def _of_splits(
    root: Path, folders: Mapping[str, str], splits: Mapping[str, str], omissions: Omissions
) -> tuple[tuple[str, ...], dict[str, Files]]:
    """Return the classes of train/, and the files of each split."""
    train = Path(splits["train"])
    inner = unwrapped(train, is_split=True)
    if inner.name == train.name or words_of(inner.name) & SPLIT_WORDS.keys():  # not a single class with folders in it
        train = inner
    own = class_folders(train, omissions)
    classes = _require_classes(train, own)
    parts = {"train": labelled_images(own, classes, omissions)}
    _require_no_empty_class(train, own, classes, parts["train"], omissions)
    for split in sorted(splits.keys() - {"train"}, reverse=True):
        parts[split] = _held_out_split(Path(splits[split]), classes, omissions)
    for name, folder in folders.items():
        shared = sorted({*map(nfc, folders_in(folder))} & {*classes})
        if folder not in splits.values() and shared:
            warnings.warn(
                f"{folder} is not used, though it holds folders of classes ({some(shared)}); if {name} is a split, "
                "call it val or test",
                DataWarning,
                stacklevel=4,
            )
    return classes, parts


def _held_out_split(folder: Path, classes: Sequence[str], omissions: Omissions) -> Files:
    inner = unwrapped(folder, is_split=True)
    folder = inner if not {*map(nfc, folders_in(folder))} & {*classes} else folder
    beside = len(omissions.loose)
    found = class_folders(folder, omissions)
    unknown = next((name for name in found if name not in classes), None)
    if unknown is not None:
        alike = [name for name in classes if name.casefold().strip() == unknown.casefold().strip()]
        hint = f"call it {alike[0]}, as there" if alike else "add it there or remove it"
        raise DataError(f"{folder / unknown} is a class that train/ does not have; {hint}")
    files = labelled_images(found, classes, omissions)
    if not files[0]:
        loose = len(omissions.loose) - beside
        raise DataError(
            f"{folder} holds no images; put them into one folder per class"
            if not loose
            else f"{folder} holds no folder per class, but {counted(loose, 'image')}; {csv_remedy(folder)}"
        )
    return files


def _of_classes(
    root: Path, folders: Mapping[str, str], omissions: Omissions
) -> tuple[tuple[str, ...], dict[str, Files]]:
    """Return the classes of a folder that has no splits, and all files.

    Raises:
        DataError: there are fewer than two classes, one has no images, or folders look like splits.
    """
    if len(folders) < 2:
        raise _no_layout(root, folders)
    require_no_splits(root, folders)
    own = class_folders(root, omissions)
    classes = _require_classes(root, own)
    files = labelled_images(own, classes, omissions)
    if not files[0]:
        raise _no_layout(root, folders)
    _require_no_empty_class(root, own, classes, files, omissions)
    return classes, {"all": files}


def _no_layout(root: Path, folders: Mapping[str, str]) -> DataError:
    held = some(folders) if folders else f"none{', but images' * has_images(root)}"
    places = (str(root), *folders.values())
    loose = next((place for place in places if has_images(place)), None)
    other = SENTENCES if loose is None else csv_remedy(loose)
    return DataError(
        f"{root} needs {LAYOUT}; or one folder of images per class, at least 2 (it holds {held}); or {other}"
    )


def _require_classes(folder: Path, found: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if len(found) < 2:
        beside = f"none but images; {csv_remedy(folder)}" if not found and has_images(folder) else "none"
        raise DataError(
            f"{folder} needs one folder of images per class, at least 2; it holds {', '.join(found) or beside}"
        )
    return tuple(found)


def _require_no_empty_class(
    folder: Path, folders: Mapping[str, Sequence[str]], classes: Sequence[str], files: Files, omissions: Omissions
) -> None:
    if not files[0] and not omissions.other:
        raise DataError(f"{folder} holds no images; put them into one folder per class")
    for name, count in zip(classes, files[1].bincount(minlength=len(classes)).tolist(), strict=True):
        if count == 0:
            place = folders[name][0]
            others = [path for path in omissions.other if path.startswith(place + os.sep)]
            held = f" (but {counted(len(others), 'other file')}, such as {Path(min(others)).name})" if others else ""
            remedy = "add some or remove the folder"
            if others and all(Path(each).suffix == ".txt" for each in others):
                remedy = f"for texts, make {SENTENCES}, and train lstm, gru or transformer on their folder"
            raise DataError(f"{place} holds no images{held}; {remedy}")
