"""What people see goes to stderr, through rich; what machines read goes to stdout, as one JSON document."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lctprune.errors import NetworkWarning
from lctprune.measure.units import engineering

if TYPE_CHECKING:
    from lctprune.measure.candidates import Candidate
    from lctprune.runs import Run

WIDE = 110  # columns that the table of candidates needs to show everything
ORIGINS = 50  # and further ones for how networks came to be that were added to a run


def units(run: Run, *, batch: int) -> str:
    """What the figures of `print_candidates` mean."""
    steps = (run.config["network"] or {}).get("steps")
    sample = f"one sequence of {steps} steps" if steps else "one sample"
    return f"1 FLOP is one multiply or one add, for {sample}; latency is the median of one call, batch {batch}"


def stderr() -> Console:
    """For progress and notes."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def stdout() -> Console:
    """For results; plain text, wide enough for every table, when it is not a terminal."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE + ORIGINS)


@contextmanager
def printed_warnings(console: Console) -> Iterator[None]:
    """What the library warns of inside, as notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NetworkWarning)
        yield
    notes = [str(warning.message) for warning in caught if issubclass(warning.category, NetworkWarning)]
    for note in dict.fromkeys(notes):  # each once, however often the network was built
        console.print(f"Note: {note}.")


def print_json(document: object) -> None:
    """One strict JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_candidates(
    console: Console,
    candidates: Sequence[Candidate],
    *,
    chosen: Candidate | None,
    front: Sequence[Candidate],
) -> None:
    """A table of the exits; the chosen one marked, those on the Pareto front starred. A narrow terminal gets fewer
    columns.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    rows = [_cells(candidate) for candidate in candidates]
    needed = WIDE
    if any(candidate.origin for candidate in candidates):
        needed += ORIGINS
        rows = [{**cells, "added as": each.origin} for cells, each in zip(rows, candidates, strict=True)]
    left_out = () if console.width >= needed else ("loss", "MACs")
    table.add_column("")
    for heading in (heading for heading in rows[0] if heading not in left_out):
        table.add_column(
            heading, justify="left" if heading in ("exit", "added as") else "right", no_wrap=heading != "added as"
        )
    for candidate, cells in zip(candidates, rows, strict=True):
        mark = "→" if candidate is chosen else "*" if candidate in front else ""
        shown = [cell for heading, cell in cells.items() if heading not in left_out]
        table.add_row(mark, *shown, style="bold" if candidate is chosen else None)
    console.print(table)


def _cells(candidate: Candidate) -> dict[str, str]:
    low, high = candidate.accuracy_interval
    return {
        "exit": candidate.name,
        candidate.metric: f"{candidate.accuracy:.1%}",
        "95% interval": f"{100 * low:.1f}-{high:.1%}",
        "loss": f"{candidate.loss:.3f}",
        "FLOPs": quantity(candidate.flops),
        "MACs": quantity(candidate.macs),
        "params": quantity(candidate.parameters),
        "latency": "?" if candidate.latency_ms is None else f"{candidate.latency_ms:.2f} ms",
        "size": f"{candidate.size_bytes / 2**20:.1f} MiB",
    }


def quantity(value: float | None) -> str:
    """401M, 1.11G; a question mark where it is not known."""
    return "?" if value is None else engineering(value)
