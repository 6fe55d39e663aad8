"""The encoding of a table: how the cells of each column become numbers, as config.json and model.json record it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lctprune.errors import ConfigError

Kind = Literal["number", "date", "text", "unused"]


@dataclass(frozen=True, kw_only=True)
class ColumnEncoding:
    """Encoding of one column of a table, before standardisation.

    - A number is itself, and a date is the days since 1970-01-01 (UTC). Where the cell is missing, it is `fill`; with
      `marks_gaps` a further number is 1 there, and 0 elsewhere.
    - A text becomes a number per category, 1 for its own and 0 for the others; with `other`, a further one is 1 for all
      texts that are no category.

    Attributes:
        name: name of the column.
        kind: what its cells are; "unused" if the column is left out.
        fill: median of the training split, of numbers and dates.
        marks_gaps: whether cells of the training split are missing, of numbers and dates.
        categories: texts of the training split with a number of their own, in order; "" stands for a missing cell.
        other: whether rare texts of the training split share a number.
        reason: why the column is left out; empty otherwise.

    Raises:
        ConfigError: the fields do not fit each other.
    """

    name: str
    kind: Kind
    fill: float | None = None
    marks_gaps: bool = False
    categories: tuple[str, ...] = ()
    other: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        is_numeric = self.kind in ("number", "date")
        if is_numeric != (self.fill is not None) or (self.fill is not None and not math.isfinite(self.fill)):
            raise ConfigError(f"fill is {self.fill} in a column of kind {self.kind}; numbers and dates need one")
        if (self.kind == "text") != bool(self.categories) or len({*self.categories}) != len(self.categories):
            raise ConfigError(
                f"a column of kind {self.kind} has {len(self.categories)} categories; a text needs different ones"
            )

    @property
    def names(self) -> Iterator[str]:
        """Name of each number that a cell becomes."""
        if self.kind in ("number", "date"):
            yield self.name
        yield from (f"{self.name}={category}" if category else f"{self.name} missing" for category in self.categories)
        if self.marks_gaps:
            yield f"{self.name} missing"
        if self.other:
            yield f"{self.name} other"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that say something about a column of this kind, for model.json."""
        if self.kind == "text":
            return {"name": self.name, "kind": self.kind, "categories": list(self.categories), "other": self.other}
        return {"name": self.name, "kind": self.kind, "fill": self.fill, "marks_gaps": self.marks_gaps}


@dataclass(frozen=True)
class TableEncoding:
    """Encoding of the input columns of a table, fitted on its training split.

    Attributes:
        columns: encoding of each column, in the order of the table.
    """

    columns: tuple[ColumnEncoding, ...]

    @property
    def used(self) -> tuple[ColumnEncoding, ...]:
        """Columns that are not left out."""
        return tuple(column for column in self.columns if column.kind != "unused")

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each number that a row becomes."""
        return tuple(name for column in self.used for name in column.names)
