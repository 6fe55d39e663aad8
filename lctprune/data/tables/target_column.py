"""Choose the column of a table that is to be predicted."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from lctprune.data.delimited import is_number
from lctprune.data.tables.cells import column_label
from lctprune.data.tables.files import TableFile
from lctprune.data.tables.header import is_missing
from lctprune.errors import DataError, DataWarning
from lctprune.utils.names import visible

# usual names, in lower case and without what is neither a letter nor a digit
TARGETS = ("label", "labels", "class", "classes", "classname", "classlabel", "classid", "target", "targets") + (
    *("category", "species", "variety", "y", "ytrue", "outcome", "response", "diagnosis", "groundtruth"),
)
SAMPLED_ROWS = 100  # in which texts are looked for
OTHER_TARGET = "give another column to predict (`target=COLUMN`)"


def target_column(table: TableFile, given: str | None, known: Sequence[str] | None = None) -> int:
    """Choose the column to predict: the one given, or the only one of a usual name, or the last.

    Args:
        table: the table.
        given: name of the column.
        known: names of the input columns by which a run knows this table; the column besides them is its target.

    Returns:
        Index of the column.

    Raises:
        DataError: there is no such column, or several have usual names, but not the last one.

    Warns:
        DataWarning: the column was not given, and there may be doubt about it.
    """
    if given is not None:
        if given not in table.names:
            raise DataError(f"{table.path} has no column {given!r}; it has {', '.join(map(visible, table.names))}")
        return table.names.index(given)
    last = len(table.names) - 1
    if known is not None:
        names = set(known)
        rest = [index for index, name in enumerate(table.names) if name not in names]
        return rest[0] if len(rest) == 1 else last
    named = _of_usual_names(table)
    if last in named or not named:
        chosen, others = last, [index for index in named if index != last]
    elif len(named) == 1:
        chosen, others = named[0], []
    else:
        shown = ", ".join(visible(table.names[index]) for index in named)
        raise DataError(
            f"{table.path} has several columns that may be what to predict ({shown}); say which: `target=COLUMN`"
        )
    _warn_of_doubt(table, chosen, others, is_named=bool(named))
    return chosen


def _of_usual_names(table: TableFile) -> list[int]:
    """Return the columns of usual names; y beside x is a coordinate."""
    if not table.is_named:
        return []
    keys = [re.sub(r"[^a-z0-9]", "", name.casefold()) for name in table.names]
    return [index for index, key in enumerate(keys) if key in TARGETS and not (key == "y" and "x" in keys)]


def _warn_of_doubt(table: TableFile, chosen: int, others: Sequence[int], *, is_named: bool) -> None:
    label, is_last = column_label(table, chosen), chosen == len(table.names) - 1
    if others:
        inputs = ", ".join(visible(table.names[index]) for index in others)
        text = f"{label}, the last column, is predicted, and {inputs} is an input; remove it if it tells the same"
    elif is_named and not is_last:
        text = f"{label} is predicted, as its name says"
    elif not is_named and (_holds_numbers(table, chosen) or _has_texts(table, chosen)):
        text = f"{label}, the last one, is predicted"
    else:
        return  # the only column of text is what to predict
    warnings.warn(f"{table.path}: {text}; for another one: `target=COLUMN`", DataWarning, stacklevel=4)


def _holds_numbers(table: TableFile, column: int) -> bool:
    return all(is_number(cells[column].strip()) for _, cells in table.rows)


def _has_texts(table: TableFile, before: int) -> bool:
    """Whether a column before another one has texts, in the first rows."""
    cells = (cell.strip() for _, cells in table.rows[:SAMPLED_ROWS] for cell in cells[:before])
    return not all(is_number(cell) or is_missing(cell) for cell in cells)
