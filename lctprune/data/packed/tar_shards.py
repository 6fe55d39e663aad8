"""WebDataset: tar files whose members key.jpg and key.cls (or key.json with a label) are a sample.

Only the members' headers and labels are read, for where the images' bytes are, and once; nothing is extracted.
"""

from __future__ import annotations

import itertools
import json
import re
import tarfile
import warnings
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import torch

from lctprune.data.images.label_table import LABELS
from lctprune.data.images.listing import ENDINGS, some
from lctprune.data.packed.labels import Value
from lctprune.data.packed.tar_index import TarContent, TarIndex
from lctprune.data.packed_samples import Shard
from lctprune.errors import DataError, DataWarning, first_line
from lctprune.utils.files import open_regular
from lctprune.utils.names import visible
from lctprune.utils.wording import counted

MOST_LABEL_BYTES = 2**20
_NUMBER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_PACKERS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarShard(NamedTuple):
    """A tar file of samples: where the images are, and their labels in order."""

    shard: Shard
    labels: Sequence[Value]


class _Sample(NamedTuple):
    name: str
    offset: int
    size: int
    label: Value


def read_tar(path: Path, target: str | None = None) -> TarShard:
    """Read where the images of a tar file are, and their labels.

    Args:
        path: the file.
        target: key of the label in .json members; by default a usual one, such as label.

    Raises:
        DataError: the file is compressed, damaged or cut off; or an image has no label, or is empty.

    Warns:
        DataWarning: members are neither images nor labels of one, or no regular files.
    """
    try:
        with open_regular(path, DataError) as file:
            index = TarIndex(path, file, target)
            if (content := index.read()) is None:
                index.write(content := _read(path, file, target))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise DataError(f"{path} is damaged or cut off ({first_line(error)}); fetch it again") from error
    count, first = content.left_out
    if count:
        what = "that is no regular file, or no image with a label, left out"
        warnings.warn(f"{path}: {counted(count, 'member')} {what}, such as {first}", DataWarning, stacklevel=5)
    return TarShard(Shard(path, str(path), content.offsets, content.sizes, content.names), content.labels)


def _read(path: Path, file: IO[bytes], target: str | None) -> TarContent:
    """Read the headers and the labels."""
    _refuse_compressed(path, file)
    left_out: list[str] = []
    names, offsets, sizes, labels = [], array("q"), array("q"), []
    for sample in _samples(path, file, target, left_out):
        names.append(sample.name)
        offsets.append(sample.offset)
        sizes.append(sample.size)
        labels.append(sample.label)
    if not names:
        raise DataError(f"{path} holds no images; a sample is an image and its label, such as 0.jpg and 0.cls")
    first = visible(left_out[0]) if left_out else ""
    firsts, lengths = (torch.frombuffer(each, dtype=torch.int64) for each in (offsets, sizes))
    return TarContent(tuple(names), firsts, lengths, labels, (len(left_out), first))


def _refuse_compressed(path: Path, file: IO[bytes]) -> None:
    start = file.read(6)
    file.seek(0)
    for mark, name in _PACKERS.items():
        if start.startswith(mark):
            raise DataError(
                f"{path} is compressed ({name}), so that single images in it cannot be read; decompress it to a plain "
                ".tar file"
            )


def _samples(path: Path, file: IO[bytes], target: str | None, left_out: list[str]) -> Iterator[_Sample]:
    """Yield the samples: consecutive members whose names begin alike, up to the first dot after the last slash."""
    for _, group in itertools.groupby(_files(path, file, left_out), lambda member: _parts(member)[0]):
        images, labels, others = [], {}, []
        for member in group:
            ending = _parts(member)[1]
            if f".{ending.rpartition('.')[2]}" in ENDINGS:
                images.append(member)
            elif ending in ("cls", "json"):
                labels[ending] = _label(path, file, member, target)
            else:
                others.append(member.name)
        if not images:
            left_out += [*others, *labels]
            continue
        image = _only_image(path, images)
        label = next((labels[kind] for kind in ("cls", "json") if labels.get(kind) is not None), None)
        if target is not None and "json" in labels:
            label = labels["json"]
        if not labels:
            raise DataError(
                f"{path}: {visible(image.name)} has no label right beside it; a sample is members that follow one "
                "another, such as 0.jpg and 0.cls (a tar file of folders of classes has to be unpacked)"
            )
        yield _Sample(visible(image.name), image.offset_data, image.size, label)


def _parts(member: tarfile.TarInfo) -> tuple[str, str]:
    """Return what the members of a sample have in common, and the rest, in lower case."""
    folder, _, name = member.name.rpartition("/")
    stem, _, ending = name.partition(".")
    return f"{folder}/{stem}", ending.lower()


def _only_image(path: Path, images: list[tarfile.TarInfo]) -> tarfile.TarInfo:
    """Return the image of a sample; beside key.jpg, key.mask.png is another one.

    Raises:
        DataError: there are several, or it is empty.
    """
    plain = [image for image in images if "." not in _parts(image)[1]] or images
    if len(plain) > 1:
        raise DataError(
            f"{path} has several images of one sample ({some([visible(image.name) for image in plain])}); keep one"
        )
    if not plain[0].size:
        raise DataError(f"{path}: {visible(plain[0].name)} has 0 bytes; restore or remove it")
    return plain[0]


def _files(path: Path, file: IO[bytes], left_out: list[str]) -> Iterator[tarfile.TarInfo]:
    """Yield the regular members.

    Raises:
        DataError: the file ends, or cannot be understood, before the mark of its end.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        last = -1
        while (member := tar.next()) is not None:
            if member.offset <= last or member.size < 0:
                raise DataError(f"{path} is damaged at byte {member.offset:,}; fetch it again")
            last = member.offset
            if member.name.rpartition("/")[2].startswith("."):
                pass  # hidden, such as what a Mac adds
            elif member.isreg() and member.sparse is None:
                yield member
            elif not member.isdir():
                left_out.append(member.name)
            tar.members.clear()  # type: ignore[attr-defined]  # they grow by a kilobyte for each
        end = tar.offset
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise DataError(f"{path} is damaged or cut off at byte {end:,}; fetch it again")


def _label(path: Path, file: IO[bytes], member: tarfile.TarInfo, target: str | None) -> Value:
    """Read the label in a member; None if there is none in it.

    Raises:
        DataError: it is too large, or of another kind.
    """
    if member.size > MOST_LABEL_BYTES:
        raise DataError(
            f"{path}: {visible(member.name)} has {member.size:,} bytes; a label has at most {MOST_LABEL_BYTES:,}"
        )
    file.seek(member.offset_data)
    text = file.read(member.size).decode().strip()
    if member.name.lower().endswith("cls"):
        return int(text) if _NUMBER.fullmatch(text) else text
    content = json.loads(text)
    if not isinstance(content, dict):
        return None
    key = target if target is not None else next((each for each in LABELS if each in content), "cls")
    value = content.get(key)
    if value is None or isinstance(value, str) or type(value) is int:
        return value
    raise DataError(
        f"{path}: {key} of {visible(member.name)} is {str(value)[:40]!r}; it must be a name or whole number of a class"
    )
