"""Raw inputs of a network, without targets: image files, lines of text and rows of tables, and what they become."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.config.described import ImageInput, Input, PixelInput, TextInput
from lctprune.config.table import TableEncoding
from lctprune.data.images.decoding import read_image
from lctprune.data.images.files import pixels_of
from lctprune.data.images.listing import ENDINGS, Omissions, images_below
from lctprune.data.preprocessing import Normalization
from lctprune.data.raw_rows import rows_of
from lctprune.data.texts.text import LONGEST_LINE, Vocabulary, read_lines
from lctprune.data.tokens import tokenizer_of
from lctprune.errors import DataError, DataWarning

DECODED = 64  # images that are decoded ahead
PLACEHOLDERS = {"images": "photo.jpg", "texts": "texts.txt", "rows": "rows.csv"}  # of a user's file, in what is shown
NO_LINES = (".csv", ".json", ".jsonl", ".parquet", ".xlsx")  # endings of files whose lines are no texts
_GREY = torch.tensor([19595, 38470, 7471])  # of 65536, as Pillow makes grey of red, green and blue (ITU-R 601)


class RawInput(NamedTuple):
    """One raw input, or what cannot be read.

    Attributes:
        source: file.
        line: line in the file, from 1; None for an image, or a whole file that cannot be read.
        tensor: uint8 [height, width, channels] of an image, int64 [length] of a text, float32 [features] of a row;
            None for what cannot be read.
        problem: why it cannot be read.
    """

    source: str
    line: int | None
    tensor: Tensor | None
    problem: str = ""


class Listing(NamedTuple):
    """Files to read, in order.

    Attributes:
        files: paths, each with what is wrong with it; "" if nothing is so far.
        total: number of raw inputs, where it is known before they are read.
    """

    files: list[tuple[str, str]]
    total: int | None


def list_inputs(inputs: Sequence[str], expected: Input) -> Listing:
    """List the files of raw inputs; a folder stands for the images in it and below it.

    Args:
        inputs: paths of files and folders.
        expected: what the network takes.

    Warns:
        DataWarning: files in a folder are left out.
    """
    is_image = isinstance(expected, ImageInput | PixelInput)
    if isinstance(expected, TextInput) and (others := [each for each in inputs if each.lower().endswith(NO_LINES)]):
        warnings.warn(
            f"{', '.join(others)}: the network takes {taken(expected)}, so each line is taken for a text",
            DataWarning,
            stacklevel=2,
        )
    files: list[tuple[str, str]] = []
    for path in inputs:
        if is_image and Path(path).is_dir():
            omissions = Omissions()
            try:
                found = images_below(path, omissions, strict=False)
            except DataError as error:
                files.append((path, str(error)))
                continue
            omissions.warn(path)
            files += [(each, "") for each in found] or [(path, f"{path} has no images")]
        elif path in PLACEHOLDERS.values() and not Path(path).exists():
            files.append((path, f"{path} stands for a file of yours, and there is none of that name here; name yours"))
        else:
            files.append((path, ""))
    return Listing(files, len(files) if is_image else None)


def taken(expected: Input) -> str:
    """Say what files a network takes, for people."""
    if isinstance(expected, ImageInput | PixelInput):
        return "images"
    if isinstance(expected, TextInput):
        return "texts, one per line of a file in UTF-8"
    used = () if expected.encoding is None else TableEncoding(expected.encoding).used
    columns = ", ".join([each.name for each in used] or expected.columns or ())
    return f"rows of a table, from CSV files{columns and f' with the columns {columns}'}"


def read_inputs(listing: Listing, expected: Input) -> Iterator[RawInput]:
    """Yield the raw inputs of all files, in order, also what cannot be read.

    A file that is there, cannot be read and has no ending of images comes with what the network takes.

    Args:
        listing: the files.
        expected: what the network takes.
    """
    is_image = isinstance(expected, ImageInput | PixelInput)
    for each in _read(listing, expected):
        is_own = is_image and each.source.lower().endswith(tuple(ENDINGS))
        is_said = each.line is not None or "the network takes" in each.problem
        if each.tensor is None and not (is_said or is_own) and Path(each.source).exists():
            yield each._replace(problem=f"{each.problem}; the network takes {taken(expected)}")
        else:
            yield each


def _read(listing: Listing, expected: Input) -> Iterator[RawInput]:
    if isinstance(expected, ImageInput | PixelInput):
        yield from _images(listing.files, expected)
        return
    vocabulary = _vocabulary(expected) if isinstance(expected, TextInput) else None
    for path, problem in listing.files:
        try:
            if problem:
                raise DataError(problem)
            if isinstance(expected, TextInput):
                assert vocabulary is not None
                for line, text in read_lines(path):
                    if len(text) > LONGEST_LINE:
                        problem = f"{path}, line {line} has {len(text):,} characters; it may have {LONGEST_LINE:,}"
                        yield RawInput(path, line, None, problem)
                    else:
                        yield RawInput(path, line, vocabulary.encode([text], expected.max_length)[0])
            else:
                normalization = Normalization(expected.mean, expected.std)
                encoding = None if expected.encoding is None else TableEncoding(expected.encoding)
                for line, row, wrong in rows_of(Path(path), expected.columns, normalization, encoding):
                    yield RawInput(path, line, row, wrong)
        except DataError as error:
            yield RawInput(path, None, None, str(error))


def as_batches(
    items: Sequence[RawInput], expected: Input, length: int | None = None
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield inputs of the network, [batch, ...], with the indices of their items, without those that cannot be read.

    Args:
        items: raw inputs.
        expected: what the network takes.
        length: only length of sequences that it takes; None where it takes any.
    """
    known = [(index, item.tensor) for index, item in enumerate(items) if item.tensor is not None]
    if isinstance(expected, PixelInput):  # of any size, but of one in a batch
        for _, group in itertools.groupby(known, key=lambda each: each[1].shape):
            indices, tensors = zip(*group, strict=True)
            yield list(indices), torch.stack(tensors)
    elif known:
        indices, tensors = zip(*known, strict=True)
        yield list(indices), _stacked(tensors, expected, length)


def _stacked(tensors: Sequence[Tensor], expected: Input, length: int | None) -> Tensor:
    if isinstance(expected, ImageInput):
        return Normalization(expected.mean, expected.std).apply(torch.stack(tuple(tensors)))
    if isinstance(expected, TextInput):
        padded = torch.zeros(len(tensors), length or max(map(len, tensors)), dtype=torch.int64)
        for row, ids in zip(padded, tensors, strict=True):
            row[: len(ids)] = ids[: padded.shape[1]]
        return padded
    return torch.stack(tuple(tensors))


def _images(files: Iterable[tuple[str, str]], expected: ImageInput | PixelInput) -> Iterator[RawInput]:
    channels = expected.shape[1] if isinstance(expected, ImageInput) else expected.shape[3]

    def decoded(file: tuple[str, str]) -> RawInput:
        path, problem = file
        try:
            if problem:
                raise DataError(problem)
            steps = expected.preprocessing
            is_pixels = isinstance(expected, PixelInput)
            rgb = torch.from_numpy(read_image(path, steps)) if is_pixels else pixels_of(path, steps)
        except DataError as error:
            return RawInput(path, None, None, str(error))
        return RawInput(path, None, rgb if channels == 3 else _grey(rgb))

    remaining = iter(files)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(itertools.islice(remaining, DECODED)):
            yield from pool.map(decoded, some)


def _grey(rgb: Tensor) -> Tensor:
    """Return uint8 [height, width, 1] of uint8 [height, width, 3]."""
    return ((rgb.int() * _GREY).sum(2, keepdim=True) + 2**15 >> 16).to(torch.uint8)


def _vocabulary(expected: TextInput) -> Vocabulary:
    return Vocabulary(expected.vocabulary, tokenizer_of(expected.tokenizer))
