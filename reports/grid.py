"""A table of a page, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A cell of the table, with notes in small print below.

    Attributes:
        text: what it says.
        notes: lines in small print.
        value: what rows are sorted by; None: after all others.
    """

    text: str
    notes: Sequence[str] = ()
    value: float | str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table.

    Attributes:
        cells: cells, the first of which names the row.
        chosen: whether it is highlighted.
        exit: key of the candidate, if it is about one.
    """

    cells: Sequence[Cell]
    chosen: bool
    exit: int | str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows, and a note that explains the columns."""

    columns: Sequence[str]
    rows: Sequence[Row]
    note: str
