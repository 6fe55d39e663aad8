"""Find the files of a data set that is packed into few large ones, and the splits that their names tell.

Parquet files, as the Hugging Face hub keeps them; Arrow files, as `datasets.save_to_disk` writes them; and tar files of
WebDataset.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lctprune.data.images.listing import entries, folders_in, has_images, is_file, some
from lctprune.data.images.splits import SPLIT_WORDS, split_of, without_eval
from lctprune.errors import DataError, DataWarning
from lctprune.utils.files import read_regular
from lctprune.utils.wording import counted

Kind = Literal["parquet", "arrow", "tar"]
KINDS: Mapping[str, Kind] = {".parquet": "parquet", ".arrow": "arrow", ".tar": "tar"}
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_COUNTED = re.compile(r"(.*?)[-_.]?(\d+)-of-(\d+)(?:-[0-9a-f]+)?")  # train-00000-of-00004
_STATE, _SPLITS = "state.json", "dataset_dict.json"  # as datasets.save_to_disk writes them
LONGEST_NAME = 256
_DEPTH = 3  # of folders that are searched: data/train/0000.parquet


class Shards(NamedTuple):
    """Files of a data set, in the order of their names.

    Attributes:
        root: folder that they lie in, or the file.
        kind: what they are.
        splits: files of train, val and test, or of "all" if nothing names a split.
    """

    root: Path
    kind: Kind
    splits: dict[str, list[Path]]

    @property
    def first(self) -> Path:
        """The first file of the training split, which says what all hold."""
        return (self.splits.get("train") or self.splits["all"])[0]

    def name_of(self, path: Path) -> str:
        """Return the path of a file below the folder, with slashes."""
        return path.name if path == self.root else path.relative_to(self.root).as_posix()


def kind_of(name: str) -> Kind | None:
    """Return what a file is by its ending, in any letter case; None if it is none of these."""
    return KINDS.get(Path(name).suffix.lower())


def find_shards(root: Path) -> Shards | None:
    """Find the files of a packed data set: a file of such a kind, or a folder that holds some.

    Raises:
        DataError: shards are compressed, of several kinds, or some are missing; or two names stand for one split.

    Warns:
        DataWarning: files that name no split are left out, or all of them beside folders of images.
    """
    if not root.is_dir():
        _refuse_compressed([root] if root.is_file() and _is_compressed(root.name) else [], root)
        kind = kind_of(root.name)
        return Shards(root, kind, {"all": [root]}) if kind and root.exists() else None
    if (root / _SPLITS).is_file():
        return Shards(root, "arrow", _saved_splits(root))
    if (root / _STATE).is_file():
        return Shards(root, "arrow", {"all": _saved_files(root)})
    files, compressed = _files_below(root)
    if (files or compressed) and _holds_images(root):
        _warn_of(root, "not used beside folders of images", [*files, *compressed])
        return None
    _refuse_compressed([] if files else compressed, root)
    if not files:
        return None
    kinds = {kind: [file for file in files if kind_of(file.name) == kind] for kind in KINDS.values()}
    kinds = {kind: found for kind, found in kinds.items() if found}
    if len(kinds) > 1:
        examples = some([str(min(found)) for found in kinds.values()])
        raise DataError(f"{root} holds files of several kinds ({examples}); give a folder with those of one kind")
    _require_all(files)
    [(kind, found)] = kinds.items()
    return Shards(root, kind, _by_split(root, sorted(found)))


def _files_below(folder: Path, depth: int = 1) -> tuple[list[Path], list[Path]]:
    """Return the files in a folder, or else in those below it that are called data or as a split is.

    Returns:
        Files of the kinds that are read, and compressed ones.
    """
    names = [entry.name for entry in entries(folder) if is_file(entry) and not entry.name.startswith("cache-")]
    files = [folder / name for name in names if kind_of(name)]
    compressed = [folder / name for name in names if _is_compressed(name)]
    if files or depth == _DEPTH:
        return files, compressed
    inner = [name for name in folders_in(folder) if name.lower() == "data" or _split_word(name)]
    below = [_files_below(folder / name, depth + 1) for name in inner]
    return [file for found, _ in below for file in found], compressed + [file for _, found in below for file in found]


def _is_compressed(name: str) -> bool:
    return name.lower().endswith(COMPRESSED)


def _refuse_compressed(files: Sequence[Path], place: Path) -> None:
    if files:
        raise DataError(
            f"{counted(len(files), 'compressed tar file')} in {place} ({some([each.name for each in files])}), of "
            "which single images cannot be read; decompress them to .tar files, or unpack them to folders of images"
        )


def _holds_images(root: Path) -> bool:
    folders = folders_in(root).values()
    return any(has_images(folder) or any(map(has_images, folders_in(folder).values())) for folder in folders)


def _warn_of(root: Path, what: str, files: Sequence[Path]) -> None:
    warnings.warn(f"{root}: {counted(len(files), 'file')} {what}, such as {files[0]}", DataWarning, stacklevel=5)


def _require_all(files: Sequence[Path]) -> None:
    """Refuse files of which the names say that there are more, as train-00000-of-00004 does.

    Raises:
        DataError: some are missing.
    """
    numbers: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        if match := _COUNTED.fullmatch(file.stem):
            numbers.setdefault((file.parent, match[1], int(match[3])), set()).add(int(match[2]))
    for (folder, name, count), found in numbers.items():
        if len(found) < count:
            first = next(number for number in range(count) if number not in found)
            raise DataError(
                f"{folder} holds {len(found)} of the {count} files of {name or 'the data'}; number {first} is missing: "
                "fetch them all"
            )


def _split_word(name: str) -> str | None:
    """Return the word in a name that tells a split: the last one that does."""
    match = _COUNTED.fullmatch(name)
    words = re.split(r"[-_. ]+", (match[1] if match else name).casefold())
    found = [word for word in (each.rstrip("0123456789") for each in words) if word in SPLIT_WORDS]
    return found[-1] if found else split_of(name)


def _by_split(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of each split, by their names or those of the folders that they lie in."""
    found: dict[str, list[Path]] = {}
    unknown: list[Path] = []
    for file in files:
        places = [file.stem, *(folder.name for folder in file.parents if root in folder.parents)]
        word = next((word for name in places if (word := _split_word(name))), None)
        (unknown if word is None else found.setdefault(word, [])).append(file)
    if not found:
        return {"all": unknown}
    if unknown:
        _warn_of(root, "left out, of which no name tells the split", unknown)
    return {split: found[word] for split, word in _splits_of(root, found).items()}


def _splits_of(root: Path, words: Iterable[str]) -> dict[str, str]:
    """Return the word of each split; a single split is "all".

    Raises:
        DataError: two words stand for one split, or none for train.
    """
    found: dict[str, list[str]] = {}
    for word in words:
        found.setdefault(SPLIT_WORDS[word], []).append(word)
    named = without_eval(found, root)
    if "train" not in named:
        raise DataError(f"{root} has the splits {some(sorted(named)) or 'of other names'}; it needs one called train")
    return named if len(named) > 1 else {"all": named["train"]}


def _saved_splits(root: Path) -> dict[str, list[Path]]:
    """Return the files of each split that `DatasetDict.save_to_disk` wrote."""
    names = {name: _split_word(name) for name in _strings(root / _SPLITS, "splits", None)}
    known = {word: name for name, word in names.items() if word}
    if left := [root / name for name in names if name not in known.values()]:
        _warn_of(root, "left out, of which no name tells the split", left)
    return {split: _saved_files(root / known[word]) for split, word in _splits_of(root, known).items()}


def _saved_files(folder: Path) -> list[Path]:
    """Return the files of a data set that `save_to_disk` wrote."""
    return [folder / name for name in _strings(folder / _STATE, "_data_files", "filename")]


def _strings(path: Path, key: str, inner: str | None) -> list[str]:
    """Read names of files or folders beside a JSON file.

    Raises:
        DataError: the file cannot be read, or has no such names.
    """
    try:
        content = json.loads(read_regular(path, DataError))
        names = [each if inner is None else each[inner] for each in content[key]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not as datasets.save_to_disk writes it; save the data set again") from error
    if not names or not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise DataError(f"{path} has no {key}, or one outside its folder; save the data set again")
    if isinstance(content, dict) and (content.get("_indices_data_files") or content.get("_indices_files")):
        raise DataError(f"{path} selects rows of its files; save the data set after flatten_indices()")
    return names


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and len(name) < LONGEST_NAME and not set(name) & {"/", "\\", "\0"}
