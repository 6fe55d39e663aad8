"""List the images of folders of classes: which files count, which links are followed, and what is left out."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.data.packed_samples import ImageSource
from lctprune.errors import DataError, DataWarning
from lctprune.utils.names import is_text, is_utf8, visible
from lctprune.utils.wording import counted

_PHOTOS = ".jpg .jpeg .jpe .jif .jfif .mpo .png .apng .gif .webp .avif .tif .tiff .bmp .dib"
_OTHERS = ".ppm .pgm .pbm .pnm .tga .pcx .qoi .jp2 .j2k .j2c .jpc .jpf .jpx"
ENDINGS = frozenset(f"{_PHOTOS} {_OTHERS}".split())  # torchvision's IMG_EXTENSIONS, slow to import, and more
JUNK = frozenset(  # what systems leave in folders, besides hidden files; in lower case
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir", "lost+found")
    + ("$recycle.bin", "system volume information")
)
MOST_VISITS = 8  # of one folder in one class: folders that link to each other make more paths than can be walked
NAMED, NAMED_ENDINGS = 3, 5  # files, and endings of files, that a message names
Files = tuple[list[str], Tensor]  # paths and labels
_Identity = tuple[int, int]  # device and inode


class ImageListing(NamedTuple):
    """Image files of a data set, before any of them is opened.

    Attributes:
        classes: names of the classes, in the order of the labels.
        train: images and labels of the training split.
        val: images and labels of the validation split.
        test: images and labels of the test split.
        fingerprint: hash of the names of all files, in their order.
        val_from_train: whether the validation split was cut from files that are given for training.
    """

    classes: tuple[str, ...]
    train: tuple[Sequence[ImageSource], Tensor]
    val: tuple[Sequence[ImageSource], Tensor]
    test: tuple[Sequence[ImageSource], Tensor]
    fingerprint: str
    val_from_train: bool = False


@dataclass
class Omissions:
    """Tally of what listings leave out, for one note of each kind."""

    other: list[str] = field(default_factory=list)  # files that are not images by their endings
    loose: list[str] = field(default_factory=list)  # images beside class folders
    dangling: list[str] = field(default_factory=list)  # links to nothing
    special: list[str] = field(default_factory=list)  # pipes, sockets, devices, and links to these
    loops: list[str] = field(default_factory=list)  # links to a folder above them
    twice: list[tuple[str, str]] = field(default_factory=list)  # folders that are reached again, with their first path
    seen: dict[_Identity, str] = field(default_factory=dict)  # folders that were listed

    def add_odd(self, entry: os.DirEntry[str]) -> None:
        """Count an entry that is neither a file nor a folder."""
        (self.special if os.path.exists(entry.path) else self.dangling).append(entry.path)  # noqa: PTH110, as above

    def warn(self, root: str | Path) -> None:
        """Warn of each kind of omission below `root` with one line.

        Warns:
            DataWarning: the number of files or links, and the first of them.
        """
        endings = Counter(ending_of(path) or "without ending" for path in self.other)
        kinds = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(NAMED_ENDINGS))
        twice = [f"{again}, which is {first}" for first, again in self.twice]
        for paths, noun, what in (
            (self.other, "file", f" not named as images are ({kinds}) left out"),
            (self.loose, "image", " in no class folder left out"),
            (self.dangling, "link", " to nothing left out"),
            (self.special, "file", " left out that is a pipe, a socket or a device"),
            (self.loops, "link", " back to a folder above, or of too many, not followed"),
            (twice, "folder", " reached by several paths, with images that count each time"),
        ):
            if paths:
                text = f"{root}: {counted(len(paths), noun)}{what}, such as {min(paths)}"
                warnings.warn(text, DataWarning, stacklevel=3)


def ending_of(name: str) -> str:
    """Return a file's ending in lower case, such as .jpg; empty where it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122, a string is faster than a path


def nfc(text: str) -> str:
    """Return text in the composed form of Unicode; file names of a Mac may be decomposed."""
    return unicodedata.normalize("NFC", text)


def some(names: Iterable[str], most: int = NAMED) -> str:
    """Name the first few of many, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, by name, without hidden files and what systems leave there.

    Raises:
        DataError: the folder cannot be read.
    """
    return sorted(_scanned(folder), key=lambda entry: entry.name)


def _scanned(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from (entry for entry in found if entry.name[0] != "." and entry.name.lower() not in JUNK)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); check its permissions") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; a link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a file or a link to one."""
    try:
        return entry.is_file()
    except OSError:
        return False


def folders_in(folder: str | Path) -> dict[str, str]:
    """Return the paths of the folders in a folder, by their names, in their order."""
    return dict(sorted((entry.name, entry.path) for entry in _scanned(folder) if is_folder(entry)))


def has_images(folder: str | Path) -> bool:
    """Return whether images lie directly in a folder."""
    return any(ending_of(entry.name) in ENDINGS and is_file(entry) for entry in _scanned(folder))


def dangling_links(folder: str | Path) -> list[str]:
    """Return the names of the links in a folder that lead to nothing."""
    return [each.name for each in entries(folder) if each.is_symlink() and not is_folder(each) and not is_file(each)]


def class_folders(folder: str | Path, omissions: Omissions) -> dict[str, list[str]]:
    """Return the class folders by name, sorted as text; names that differ in the form of Unicode are one class.

    Raises:
        DataError: the folder cannot be read, or a name is not text.
    """
    found: dict[str, list[str]] = {}
    for entry in entries(folder):
        if is_folder(entry):
            if not is_text(entry.name):
                raise DataError(f"{visible(entry.path)} is no name for a class (it holds what is no text); rename it")
            found.setdefault(nfc(entry.name), []).append(entry.path)
        elif not is_file(entry):
            omissions.add_odd(entry)
        elif ending_of(entry.name) in ENDINGS:
            omissions.loose.append(entry.path)
    return dict(sorted(found.items()))


def images_below(folder: str, omissions: Omissions, *, strict: bool = True) -> list[str]:
    """Return the images in a folder and the folders below it, in the order of their names.

    Links to files and folders are followed, as torchvision's ImageFolder follows them, but not in circles.

    Args:
        folder: the folder.
        omissions: tally to add to.
        strict: whether empty files and names that are not UTF-8 are refused.

    Raises:
        DataError: a folder cannot be read; or `strict`, and images are empty or have such names.
    """
    images: list[str] = []
    empty: list[str] = []
    visits: Counter[_Identity] = Counter()
    pending = [(folder, _above(folder))]
    while pending:
        place, above = pending.pop()
        key = _identity(place)
        if key in above or visits[key] == MOST_VISITS:
            omissions.loops.append(place)
            continue
        visits[key] += 1
        if (first := omissions.seen.setdefault(key, place)) != place:
            omissions.twice.append((first, place))
        for entry in entries(place):
            if is_folder(entry):
                pending.append((entry.path, above | {key}))
            elif not is_file(entry):
                omissions.add_odd(entry)
            elif ending_of(entry.name) not in ENDINGS:
                omissions.other.append(entry.path)
            else:
                (images if not strict or entry.stat().st_size else empty).append(entry.path)
    require_no_empty(empty)
    if odd := [visible(path) for path in images if strict and not is_utf8(path)]:
        raise DataError(f"{counted(len(odd), 'image')} with names that are not UTF-8: {some(sorted(odd))}; rename them")
    return sorted(images, key=lambda path: nfc(path).replace(os.sep, "\0"))  # by the parts of the path


def require_no_empty(paths: Sequence[str]) -> None:
    """Refuse files of 0 bytes.

    Raises:
        DataError: there are some.
    """
    if paths:
        raise DataError(f"{counted(len(paths), 'image')} of 0 bytes: {some(sorted(paths))}; restore or remove them")


def labelled_images(folders: Mapping[str, Sequence[str]], classes: Sequence[str], omissions: Omissions) -> Files:
    """Return the images of all classes, sorted by class and name, and their labels.

    Args:
        folders: class folders by name.
        classes: names of the classes, in the order of the labels.
        omissions: tally to add to.
    """
    paths: list[str] = []
    counts: list[int] = []
    for name in classes:
        found = [path for folder in folders.get(name, ()) for path in images_below(folder, omissions)]
        paths += found
        counts.append(len(found))
    return paths, torch.repeat_interleave(torch.tensor(counts, dtype=torch.int64))


def fingerprint_of(names: Iterable[str]) -> str:
    """Return a hash of the files' names in their order, the same for both forms of Unicode."""
    return hashlib.sha256(nfc("\n".join(names)).encode(errors="surrogateescape")).hexdigest()


def _identity(folder: str | Path) -> _Identity:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _above(folder: str) -> frozenset[_Identity]:
    """Return the folders that hold a folder, by its own path and by that which its link leads to."""
    places = {*Path(folder).absolute().parents, *Path(folder).resolve().parents}
    return frozenset(map(_identity, places))
