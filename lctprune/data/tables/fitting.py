"""Choose, by the rows that are trained on, how the columns of a table become numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy
from torch import Tensor

from lctprune.config.table import ColumnEncoding, Kind, TableEncoding
from lctprune.data.tables.cells import ROW_NUMBERS, shown_cell
from lctprune.data.tables.encoding import cells_of, is_mark, unused_columns, value_of
from lctprune.data.tables.files import TableFile
from lctprune.errors import DataError

MOST_CATEGORIES = 50  # of a column, with that of all rare ones
LEAST_ROWS = 2  # of a category with a number of its own
MOST_STRAY = 0.1  # fraction of cells that are numbers written in another way, in a column of numbers
LONGEST_CATEGORY = 1000  # characters
_ALMOST_NUMBER = re.compile(r"[$€£¥<>~]?\s?[+-]?\d[\d.,']*\s?(?:%|°?[^\W\d_]{1,4})?")
_ALMOST_DATE = re.compile(r"\d{1,4}([/.-])\d{1,2}\1\d{1,4}(?:\s.*)?")
_IDENTIFIER = re.compile(r"(?:.*[\W_])?(?:id|idx|index|key|no|nr|row|row_?(?:id|names?|number))|unnamed: \d+|#")


def fit_encoding(table: TableFile, columns: Sequence[str], train: Tensor) -> TableEncoding:
    """Choose how the columns of a table become numbers.

    Columns in which the rows that are trained on have numbers only are all used, as a table of numbers' are. Beside
    texts or gaps, columns of one value are left out, and numbers that are another one in every row and called an
    identifier.

    Args:
        table: the table.
        columns: names of the input columns.
        train: indices of the rows that are trained on, [n].

    Raises:
        DataError: there is no column that can be used.
    """
    trained_on = table._replace(rows=[table.rows[row] for row in train.tolist()])
    places = table.places
    cells = {name: cells_of(trained_on, places[name]) for name in columns}
    fitted = {name: _fitted(name, texts) for name, texts in cells.items()}
    if any(each.kind != "number" or each.marks_gaps for each in fitted.values() if each.name):
        for name, each in fitted.items():
            if reason := _uninformative(each, cells[name]):
                fitted[name] = _unused(name, reason)
    encoding = TableEncoding(tuple(fitted.values()))
    if not encoding.used:
        raise DataError(
            f"{table.path} has no column to learn from besides what is predicted: {unused_columns(encoding)}; give it "
            "columns of numbers, or of texts that several rows share (for sentences: a folder with train.tsv and "
            "test.tsv, files of lines sentence<TAB>label, and lstm, gru or transformer)"
        )
    return encoding


def _unused(name: str, reason: str) -> ColumnEncoding:
    return ColumnEncoding(name=name, kind="unused", reason=reason)


def _fitted(name: str, cells: Sequence[str]) -> ColumnEncoding:
    """Fit the encoding of a column to its cells; "" where they are missing."""
    present = [cell for cell in cells if cell]
    if not name:
        return _unused(name, "no name")
    if not present:
        return _unused(name, "empty")
    if (kind := _kind(present)) == "text":
        return _text_encoding(name, cells, present)
    values = [value for cell in present if (value := value_of(cell, kind)) is not None]
    fill = float(numpy.median(values)) + 0.0  # no -0.0
    return ColumnEncoding(name=name, kind=kind, fill=fill, marks_gaps=len(values) < len(cells))


def _kind(present: Sequence[str]) -> Kind:
    """Tell whether a column holds numbers, dates or texts, by its cells that are not missing."""
    counts = Counter(present)
    kinds: tuple[Kind, ...] = ("number", "date")
    for kind in kinds:
        strays = {cell: count for cell, count in counts.items() if value_of(cell, kind) is None}
        if not strays:
            return kind
        if 2 * sum(strays.values()) >= len(present) or _are_categories(counts):
            continue
        are_few = kind == "number" and sum(strays.values()) <= max(1, MOST_STRAY * len(present))
        if are_few or all(map(is_mark, strays)):
            return kind
    return "text"


def _are_categories(counts: Counter[str]) -> bool:
    """Whether a few values stand in most rows."""
    return len(counts) <= MOST_CATEGORIES and not _are_own(counts)


def _are_own(counts: Counter[str]) -> bool:
    """Whether most cells hold a value that no other one has."""
    return 2 * sum(count == 1 for count in counts.values()) > counts.total()


def _text_encoding(name: str, cells: Sequence[str], present: Sequence[str]) -> ColumnEncoding:
    from sklearn.preprocessing import OneHotEncoder  # slow to import

    if _are_own(Counter(present)):
        return _unused(name, _reason_of_own(present))
    encoder = OneHotEncoder(
        max_categories=MOST_CATEGORIES, min_frequency=LEAST_ROWS, handle_unknown="infrequent_if_exist"
    )
    encoder.fit(numpy.array(cells, dtype=object)[:, None])
    rare = encoder.infrequent_categories_[0]
    rare = {*rare} if rare is not None else set()
    categories = tuple(category for category in encoder.categories_[0] if category not in rare)
    if max(map(len, categories)) > LONGEST_CATEGORY:
        return _unused(name, f"texts of more than {LONGEST_CATEGORY} characters")
    return ColumnEncoding(name=name, kind="text", categories=categories, other=bool(rare))


def _reason_of_own(present: Sequence[str]) -> str:
    """Say why a column is left out, in which most texts occur once: they may be almost numbers, or dates."""
    for what, pattern in (("dates not written as 2026-01-31", _ALMOST_DATE), ("numbers with marks", _ALMOST_NUMBER)):
        found = [cell for cell in present if pattern.fullmatch(cell) and value_of(cell, "number") is None]
        if 2 * len(found) > len(present):
            return f"{what}, such as {shown_cell(found[0])}"
    others = [cell for cell in present if value_of(cell, "number") is None]
    if 2 * len(others) < len(present):
        return f"numbers beside texts, such as {shown_cell(others[0])}"
    return "most rows have a value of their own"


def _uninformative(column: ColumnEncoding, cells: Sequence[str]) -> str:
    """Say why a column says nothing about other rows; "" if it may."""
    if column.kind == "unused":
        return ""
    if len({*cells}) == 1:
        return "always the same"
    if column.kind == "number" and not column.marks_gaps:
        numbers = {float(cell) for cell in cells}
        is_named = column.name.lower() in ROW_NUMBERS or _is_identifier(column.name)
        if is_named and len(numbers) == len(cells) and all(map(float.is_integer, numbers)):
            return "numbers the rows"
    return ""


def _is_identifier(name: str) -> bool:
    """Whether a column is called like one of row numbers: PassengerId, customer_id, index."""
    return _IDENTIFIER.fullmatch(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) is not None
