"""A table of a page, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A cell of the table, with notes in small print below."""

    text: str
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table."""

    cells: Sequence[Cell]
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows, and a note that explains the columns."""

    columns: Sequence[str]
    rows: Sequence[Row]
    note: str
