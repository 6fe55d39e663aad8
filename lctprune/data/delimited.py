"""Read the cells of a text file whose lines are separated by commas, semicolons, tabs or bars."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lctprune.errors import DataError
from lctprune.utils.files import open_regular

SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}
SAMPLED_LINES = 20  # that the separator is found by
HEAD_BYTES = 2**20  # of a file, in which its first lines are
_NUMBER = r"[+-]?(?:\d+{0}?\d*|{0}\d+)(?:[eE][+-]?\d+)?"
POINT, COMMA = (re.compile(_NUMBER.format(mark), re.ASCII) for mark in (r"\.", ","))
LONGEST_LINE = 2**24  # characters
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
Lines = list[tuple[int, list[str]]]  # line in the file, from 1, and cells


def read_cells(path: Path, *, most: int | None = None) -> tuple[Lines, str]:
    """Read the lines of a file, without those that have no content, and the character that separates their cells.

    Args:
        path: the file.
        most: number of lines to read; all by default.

    Raises:
        DataError: the file cannot be read, or is not text in UTF-8.
    """
    text = _text(path, None if most is None else HEAD_BYTES)
    for line, each in enumerate(io.StringIO(text), 1):
        if len(each) > LONGEST_LINE:
            raise DataError(
                f"the table {path} cannot be read: line {line} has {len(each):,} characters; it may have "
                f"{LONGEST_LINE:,}"
            )
    with _long_cells():
        separator = _separator(text)
        return _rows(path, text, separator, most), separator


def is_number(text: str) -> bool:
    """Whether a cell is written as a finite number with a decimal point."""
    return POINT.fullmatch(text) is not None


def _text(path: Path, size: int | None) -> str:
    try:
        with open_regular(path, DataError) as file:
            content = file.read(size)
    except OSError as error:
        raise DataError(f"the table {path} cannot be read ({error.strerror})") from error
    if size is not None and len(content) == size:
        content = content[: content.rfind(b"\n") + 1] or content
    if content.startswith(_UTF16):
        raise DataError(f"the table {path} is in UTF-16; save it as CSV in UTF-8")
    if b"\0" in content:
        raise DataError(f"the table {path} is no text file; save a spreadsheet as CSV in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"the table {path} cannot be read: line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); save it "
            "as CSV in UTF-8"
        ) from error


def _separator(text: str) -> str:
    """Return the character by which the first lines have most cells that are numbers, or else most cells."""
    best, most = ",", (0, 0)
    for separator in SEPARATORS:
        rows = [row for row in itertools.islice(_reader(text, separator), SAMPLED_LINES) if len(row) > 1]
        cells = [cell.strip() for row in rows for cell in row]
        numbers = sum(is_number(cell) or (separator != "," and COMMA.fullmatch(cell) is not None) for cell in cells)
        if (found := (numbers, 0 if numbers else len(cells))) > most:
            best, most = separator, found
    return best


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let Python's reader take cells as long as a line, inside the block; a line may look like one cell at first."""
    before = csv.field_size_limit(LONGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _reader(text: str, separator: str) -> Any:  # typeshed has no public name for it
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)


def _rows(path: Path, text: str, separator: str, most: int | None) -> Lines:
    reader, line = _reader(text, separator), 1
    rows: Lines = []
    try:
        for cells in reader:
            if any(cell and not cell.isspace() for cell in cells):
                rows.append((line, cells))
            if len(rows) == most:
                break
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"the table {path} cannot be read: line {line}: {error}") from error
    return rows
