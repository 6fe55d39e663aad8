"""A CSV file of image files and labels: its columns, and its lines."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lctprune.data.delimited import Lines, read_cells
from lctprune.data.images.listing import ENDINGS, ending_of, nfc
from lctprune.errors import DataError, DataWarning

# names of columns, in lower case and without what is neither a letter nor a digit
PATHS = (
    *("path", "file", "filename", "filepath", "image", "imagepath", "imagefile", "imagefilename", "imagename", "img"),
    *("imgpath", "imgfile", "imgname", "fname", "imageid", "imgid", "photo", "picture"),
)
IDS = ("id", "idcode", "name")  # they may also be those of something else
LABELS = ("label", "class", "target", "category", "labels", "classname", "labelname", "categoryname", "classlabel")
SPLITS = ("split", "subset", "set", "partition", "fold")
MARKS = {"1": True, "0": False, "1.0": True, "0.0": False}  # whether an image is of the class of a column
MANY = "none or several of these classes"
FLAGS = {"isvalid": "val", "isval": "val", "isvalidation": "val", "istest": "test"}
Columns = Mapping[str, Sequence[str]]  # cells of each column by its name


class Row(NamedTuple):
    """A line of the file: path, label and split as they stand there; the split is empty without such a column."""

    line: int
    path: str
    label: str
    split: str


def read_lines(table: Path, most: int | None = None) -> Lines:
    """Read lines of a file, with their cells freed of blanks; see `read_cells`."""
    lines, _ = read_cells(table, most=most)
    return [(line, [cell.strip() for cell in cells]) for line, cells in lines]


def label_rows(table: Path, target: str | None) -> list[Row]:
    """Return path, label and split of each image, once.

    Args:
        table: CSV file.
        target: column of the labels; by default the one with a usual name.

    Raises:
        DataError: the file cannot be read, a column or a cell is missing, or an image has two labels or splits.

    Warns:
        DataWarning: lines are repeated, or a column of folds is not used.
    """
    return _without_repetitions(table, _all_rows(table, target))


def _all_rows(table: Path, target: str | None) -> list[Row]:
    """Return path, label and split of each line.

    Raises:
        DataError: there is no header, or it lacks a column; or a line has other cells, or an empty one.
    """
    (_, header), *lines = read_lines(table) or [(1, [])]
    if not lines or any(ending_of(name) in ENDINGS for name in header):
        raise DataError(f"{table} must begin with a line of column names, such as path,label, and have lines below it")
    for line, cells in lines:
        if len(cells) != len(header):
            raise DataError(f"{table}, line {line} has {len(cells)} cells; the header has {len(header)}")
    columns = {name: [cells[index] for _, cells in lines] for index, name in enumerate(header)}
    path = _path_column(table, columns)
    split = _split_column(table, {name: cells for name, cells in columns.items() if name not in (path, target)})
    numbers = [line for line, _ in lines]
    marked = _marked_columns(columns, (path, split)) if target is None else []
    if marked:
        labels: Sequence[str] = _marked_labels(table, {name: columns[name] for name in marked}, numbers)
    else:
        label = target if target in columns else _label_column(table, [*columns], (path, split), target)
        labels = _filled(table, label, columns[label], numbers)
    words = [""] * len(lines) if split is None else _split_words(split, columns[split])
    found = zip(numbers, _filled(table, path, columns[path], numbers), labels, words, strict=True)
    return [Row(line, nfc(name), nfc(text), word) for line, name, text, word in found]


def _filled(table: Path, column: str, cells: Sequence[str], lines: Sequence[int]) -> Sequence[str]:
    """Return the cells of a column.

    Raises:
        DataError: one is empty.
    """
    if "" in cells:
        raise DataError(f"{table}, line {lines[cells.index('')]}: {column} is empty; fill it in or remove the line")
    return cells


def _marked_columns(columns: Columns, taken: Sequence[str | None]) -> list[str]:
    """Return the columns that stand for a class each, with 1 in the lines of its images; none if there are others."""
    rest = [name for name in columns if name not in taken]
    is_marked = len(rest) > 1 and all({*columns[name]} <= MARKS.keys() for name in rest)
    return rest if is_marked and not any(column_key(name) in LABELS for name in rest) else []


def _marked_labels(table: Path, columns: Columns, lines: Sequence[int]) -> list[str]:
    """Return the only class that each line marks with 1.

    Raises:
        DataError: a line marks several classes, or none.
    """
    found = [
        [name for name, cell in zip(columns, cells, strict=True) if MARKS[cell]]
        for cells in zip(*columns.values(), strict=True)
    ]
    if odd := [(line, names) for line, names in zip(lines, found, strict=True) if len(names) != 1]:
        (line, names), count = odd[0], len(odd)
        raise DataError(
            f"{table} has {len(columns)} columns of 0 and 1, and {count} of {len(found)} lines mark {MANY}, such as "
            f"line {line} ({', '.join(names) or 'none'}); here an image has one class: remove these lines, give one "
            "column with `target`, or train on several labels in a program, with a loss of your own"
        )
    return [name for (name,) in found]


def column_key(name: str) -> str:
    """Return a column's name in lower case, without what is neither a letter nor a digit."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _path_column(table: Path, columns: Columns) -> str:
    """Return the column that holds names of image files; by its name if there are several such columns, or none.

    Raises:
        DataError: there is none, or more than one.
    """
    holds = [name for name, cells in columns.items() if are_images(cells)]
    known = PATHS + IDS
    named = sorted(
        (name for name in columns if column_key(name) in known), key=lambda name: known.index(column_key(name))
    )
    found = holds if len(holds) == 1 else [name for name in named if name in holds] or holds or named[:1]
    if len(found) != 1:
        problem = (
            f"several columns of paths ({', '.join(found)})" if found else f"no column of paths ({_names(columns)})"
        )
        raise DataError(f"{table} has {problem}; call it path")
    return found[0]


def _label_column(table: Path, names: Sequence[str], taken: Sequence[str | None], target: str | None) -> str:
    """Return the column with a usual name for labels, or the only one that is left.

    Raises:
        DataError: there is none, or more than one; or there is no column `target`.
    """
    if target is not None:
        raise DataError(f"{table} has no column {target!r}; it has {_names(names)}")
    rest = [name for name in names if name not in taken]
    found = [name for name in rest if column_key(name) in LABELS] or rest
    if len(found) != 1:
        problem = f"several columns that may be labels ({', '.join(found)})" if found else "no column of labels"
        raise DataError(f"{table} has {problem}; say which: `target=COLUMN`")
    return found[0]


def _split_column(table: Path, columns: Columns) -> str | None:
    """Return the column of splits, if there is one.

    Warns:
        DataWarning: the column is not used, as it holds the numbers of folds.
    """
    for key in (*SPLITS, *FLAGS):
        for name in [name for name in columns if column_key(name) == key]:
            if key != "fold" or not all(cell.isdecimal() for cell in columns[name]):
                return name
            text = f"{table}: {name} holds numbers, not train, val and test, and is not used"
            warnings.warn(text, DataWarning, stacklevel=5)
    return None


def _split_words(column: str, cells: Sequence[str]) -> Sequence[str]:
    """Return the split of each line; a column such as is_valid says of each whether it is in that split."""
    split = FLAGS.get(column_key(column))
    flags = {cell: cell.casefold() in ("true", "1") for cell in {*cells}}
    if split is None or not {cell.casefold() for cell in flags} <= {"true", "false", "0", "1"}:
        return cells
    return [split if flags[cell] else "train" for cell in cells]


def name_images(header: Sequence[str], cells: Sequence[str]) -> bool:
    """Return whether a line has text that is no number below a usual name for a column of paths."""
    return any(
        column_key(name) in PATHS and cell and not _is_number(cell) for name, cell in zip(header, cells, strict=False)
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def are_images(cells: Sequence[str]) -> bool:
    """Return whether most cells of a column end as the names of image files do."""
    return 2 * sum(ending_of(cell) in ENDINGS for cell in cells) > len(cells)


def _names(columns: Iterable[str]) -> str:
    return ", ".join(name or "one without a name" for name in columns)


def _without_repetitions(table: Path, rows: Sequence[Row]) -> list[Row]:
    """Return each image once.

    Raises:
        DataError: an image has two labels, or is in two splits.
    """
    found: dict[str, Row] = {}
    repeated = []
    for row in rows:
        first = found.setdefault(os.path.normpath(row.path), row)
        if first is row:
            continue
        if first[2:] != row[2:]:
            what, before = " ".join(row[2:]).strip(), " ".join(first[2:]).strip()
            raise DataError(
                f"{table}, line {row.line}: {row.path} is {what}, but {before} in line {first.line}; an image has one "
                "label, and is in one split"
            )
        repeated.append(row)
    if repeated:
        text = (
            f"{table} has lines that repeat others: {len(repeated)}, such as line {repeated[0].line}; they count once"
        )
        warnings.warn(text, DataWarning, stacklevel=4)
    return list(found.values())
