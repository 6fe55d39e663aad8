"""The rows of metrics.csv, one per epoch: as text, as the checkpoint's history, and one checked against the other."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lctprune.errors import RunError

Row = dict[str, int | float | str]  # by the columns; text where a figure is not defined
SPEED = "images_per_s"  # the only column that differs each time: a checkpoint does without it, to be the same each time
_REMEDY = "restore it from a copy"


def to_csv(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Return rows as the content of metrics.csv."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def to_history(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return rows as a checkpoint keeps them."""
    return tuple({name: value for name, value in row.items() if name != SPEED} for row in rows)


def from_csv(content: bytes, file: Path) -> list[dict[str, str]]:
    """Read metrics.csv: one row per epoch in their order, a finite number or nothing in each cell.

    Args:
        content: content of the file.
        file: the file, for messages.

    Raises:
        RunError: it is something else; the message names the line and the column.
    """
    try:
        lines = list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))
    except (ValueError, csv.Error) as error:
        raise RunError(f"{file} is no CSV in UTF-8 ({error}); {_REMEDY}") from error
    if not lines or "epoch" not in lines[0] or len(set(lines[0])) < len(lines[0]):
        raise RunError(f"{file} must begin with a line of different names of columns, one of them epoch; {_REMEDY}")
    columns = lines[0]
    rows: list[dict[str, str]] = []
    for number, cells in enumerate(lines[1:], start=1):
        if len(cells) != len(columns):
            raise RunError(f"{file}: line {number + 1} has {len(cells)} cells; it must have {len(columns)}; {_REMEDY}")
        for name, cell in zip(columns, cells, strict=True):
            if cell and not _is_number(cell):
                raise RunError(
                    f"{file}: {name} is {cell[:40]!r} in line {number + 1}; it must be a finite number; {_REMEDY}"
                )
        row = dict(zip(columns, cells, strict=True))
        epoch, last = row["epoch"], int(rows[-1]["epoch"]) if rows else 0
        if not (epoch.isascii() and epoch.isdigit() and int(epoch) > last):
            raise RunError(
                f"{file}: epoch is {epoch[:40]!r} in line {number + 1}; it must be more than {last}; {_REMEDY}"
            )
        rows.append(row)
    return rows


def history_problem(rows: Sequence[Mapping[str, str]], history: Sequence[Row] | None, epochs: int, file: Path) -> str:
    """Say what is wrong with rows of metrics.csv: one is missing, or a cell is not what was written; "" if nothing is.

    Args:
        rows: rows of the file.
        history: rows of the checkpoint; None where an earlier version wrote it.
        epochs: number of whole epochs in the checkpoint.
        file: the file, for the message.
    """
    by_epoch = {row["epoch"]: row for row in rows}
    if missing := [epoch for epoch in range(1, epochs + 1) if str(epoch) not in by_epoch]:
        return f"{file} lacks {len(missing)} of {epochs} epochs, the first {missing[0]}"
    for written in history or ():
        row = by_epoch[str(written["epoch"])]
        for name, value in written.items():
            if row.get(name) != str(value):
                return f"{file}: {name} of epoch {row['epoch']} is {row.get(name, '')[:40]!r}; it was {value}"
    return ""


def merged(history: Sequence[Row], rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the history as rows of metrics.csv, with the speeds that rows still have."""
    speeds = {row["epoch"]: row.get(SPEED, "") for row in rows}
    found = []
    for row in history:
        texts = {name: str(value) for name, value in row.items()}
        found.append({"epoch": "", "lr": "", SPEED: speeds.get(texts["epoch"], "")} | texts)
    return found


def continued(rows: Sequence[Mapping[str, str]], history: Sequence[Row] | None, epochs: int) -> list[Row]:
    """Return the rows of a run that is resumed, as numbers: the checkpoint's, with the speeds of metrics.csv."""
    if history is None:
        return [{name: _number(cell) for name, cell in row.items()} for row in rows if int(row["epoch"]) <= epochs]
    speeds = {row["epoch"]: row.get(SPEED, "") for row in rows}
    known = [{"epoch": row["epoch"], "lr": row.get("lr", ""), SPEED: "", **row} for row in history]
    return [{**row, SPEED: _number(speeds.get(str(row["epoch"]), ""))} for row in known]


def _number(cell: str) -> int | float | str:
    if not _is_number(cell):
        return cell
    return int(cell) if cell.isdigit() else float(cell)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell)) and "_" not in cell
    except ValueError:
        return False
