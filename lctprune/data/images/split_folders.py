"""Tell folders of splits from folders of classes, by their names and by what they hold."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lctprune.data.images.listing import dangling_links, folders_in, has_images, nfc, some
from lctprune.data.images.splits import SPLIT_WORDS, split_of, without_eval
from lctprune.errors import DataError, DataWarning

NEVER_CLASSES = ("val", "validation", "test", "testing")
LAYOUT = "the folders train/ and test/ (or val/), each with one folder of images per class"
_WORDS = "|".join(SPLIT_WORDS)
_AFFIXED = re.compile(rf"(|.*[^a-z])({_WORDS})(|[a-d]|[^a-z].*)")  # trainA, seg_train, test1, cats-test-2
_PLAIN = re.compile(r"[ _.-]?(|[a-d]|\d+|set|split|data|images|imgs|full|small|final|new)")  # what may follow
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])")  # where catsTrain has a word's end


class _Affixed(NamedTuple):
    """Name of a folder that holds a split's name as a word, and the text before and after it."""

    name: str
    before: str
    split: str
    after: str


def csv_remedy(folder: str | Path) -> str:
    """Say how to give labels to images that lie in no class folders, with the only CSV file in the folder or above."""
    tables = [path for place in (Path(folder), Path(folder).parent) for path in sorted(place.glob("*.csv"))]
    file = tables[0] if len(tables) == 1 else "FILE.csv"
    return (
        "put them into one folder per class, or list them in a CSV file (path,label,split) and give "
        f"`name={file}` (`image_root=DIR` if they lie elsewhere)"
    )


def splits_among(root: Path, folders: Mapping[str, str]) -> dict[str, str]:
    """Return the folder of each split; none for a folder of classes.

    Raises:
        DataError: there is no training split, or only one split, or there are two of a kind; or one is gone.
    """
    for name in filter(split_of, dangling_links(root)):
        raise DataError(f"{root / name} is a link to nothing; restore what it leads to, or remove it")
    found: dict[str, list[str]] = {}
    for name in folders:
        if split := split_of(name):
            found.setdefault(split, []).append(name)
    deep = {split: [name for name in names if folders_in(folders[name])] for split, names in found.items()}
    if "train" not in found:
        named = [name for names in deep.values() for name in names]
        named += [name for name in folders if name.casefold() in NEVER_CLASSES]
        if named:
            raise DataError(f"{root} needs {LAYOUT}; it holds {some(sorted(folders))}, and no train/")
        return _of_one_name(root, folders)
    if not deep["train"] and len(found) == 1:
        return {}
    splits = without_eval({split: deep[split] or found[split] for split in found}, root)
    if len(splits) < 2:
        train = folders[splits["train"]]
        raise DataError(
            f"{root} needs {LAYOUT}; it holds {some(sorted(folders))}; name another split test/ or val/, or give "
            f"`name={train}`, which is split for you"
        )
    return {split: folders[name] for split, name in splits.items()}


def _of_one_name(root: Path, folders: Mapping[str, str]) -> dict[str, str]:
    """Return the folder of each split where names have a text in common, as seg_train and seg_test have; else none.

    Warns:
        DataWarning: the folders are taken as splits.
    """
    families: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name, before, split, after in filter(None, map(_affixed, folders)):
        if folders_in(folders[name]):
            families.setdefault((before, after), {}).setdefault(split, []).append(name)
    families = {key: found for key, found in families.items() if "train" in found and len(found) > 1}
    if len(families) != 1:
        return {}
    [family] = families.values()
    splits = without_eval(family, root)
    rest = [name for name in folders if name not in splits.values()]
    unused = f"; {some(rest)} is not used" if rest else ""
    taken = ", ".join(f"{name} is taken as {split}/" for split, name in sorted(splits.items(), reverse=True))
    warnings.warn(f"{root}: {taken}{unused}", DataWarning, stacklevel=5)
    return {split: folders[name] for split, name in splits.items()}


def _affixed(name: str) -> _Affixed | None:
    match = _AFFIXED.fullmatch(_CAMEL.sub("_", nfc(name)).casefold())
    return _Affixed(name, match[1], SPLIT_WORDS[match[2]], match[3]) if match else None


def _require_no_loose_splits(root: Path, folders: Mapping[str, str]) -> None:
    """Refuse folders that are named like two splits and hold images, but no folder per class.

    Raises:
        DataError: there are two of them; a class may be called train, but not one beside test1 or train2.
    """
    affixed = [each for each in map(_affixed, folders) if each and has_images(folders[each.name])]
    for one, other in itertools.combinations(affixed, 2):
        is_pair = (one.before, one.after) == (other.before, other.after)
        if one.split != other.split and (is_pair or _is_plain(one) or _is_plain(other)):
            train = next((each.name for each in (one, other) if each.split == "train"), one.name)
            raise DataError(
                f"{root / one.name} and {root / other.name} are named like splits, but hold images and no folder per "
                f"class; {csv_remedy(folders[train])}; or, if they are classes, rename one"
            )


def _is_plain(affixed: _Affixed) -> bool:
    return not affixed.before and _PLAIN.fullmatch(affixed.after) is not None


def require_no_splits(root: Path, folders: Mapping[str, str]) -> None:
    """Refuse classes that may be splits, or hold some.

    Raises:
        DataError: a folder has such a name, or some folders hold others of the same names.

    Warns:
        DataWarning: all folders hold folders of the same names.
    """
    _require_no_loose_splits(root, folders)
    below = {name: {*map(nfc, folders_in(path))} for name, path in folders.items()}
    deep = {name: inner for name, inner in below.items() if inner and not has_images(folders[name])}
    names = {*map(nfc, folders)}
    remedy = "call the splits train/, val/ and test/, or move it out of the data folder"
    suspects = [name for name, inner in deep.items() if inner & names - {nfc(name)}]
    for name in suspects if len(suspects) < len(folders) else ():
        held = some(sorted(deep[name] & names))
        raise DataError(f"{root / name} is no class, as it holds the folders {held} like {root} itself; {remedy}")
    for name, inner in deep.items():
        if words_of(name) & SPLIT_WORDS.keys():
            raise DataError(f"{root / name} may be a split or a class, as it holds {some(sorted(inner))}; {remedy}")
        if all(map(split_of, inner)):
            place = root / min(inner) / name
            raise DataError(f"{root / name} holds {some(sorted(inner))}; splits must lie above classes, as {place}")
    shared = sorted(set.intersection(*below.values()))
    if len(shared) > 1:
        warnings.warn(
            f"{some(sorted(folders))} are taken as the classes, though each of them holds the folders {some(shared)}; "
            "if those are the classes, call the folders above them train, val and test",
            DataWarning,
            stacklevel=5,
        )


def words_of(name: str) -> set[str]:
    """Return the words of a name, in lower case, without digits and marks."""
    return {*re.split(r"[^a-z]+", name.casefold())}
