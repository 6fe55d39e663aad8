"""What people see goes to stderr, through rich; what machines read goes to stdout, as one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lctprune.candidates import Candidate

UNITS = "1 FLOP is one multiply or one add, for one sample; latency is the median of one call, batch {batch}"


def stderr() -> Console:
    """For progress and notes."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def stdout() -> Console:
    """For results; plain text when it is not a terminal."""
    return Console(highlight=False, soft_wrap=True)


def print_json(document: object) -> None:
    """One strict JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def candidate_table(
    candidates: Sequence[Candidate], *, chosen: Candidate | None = None, front: Sequence[Candidate] = ()
) -> Table:
    """Every exit with its accuracy and costs; the chosen one marked, those on the Pareto front starred."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("exit")
    for heading in ("accuracy", "95% interval", "loss", "FLOPs", "MACs", "parameters", "latency", "size"):
        table.add_column(heading, justify="right")
    for candidate in candidates:
        low, high = candidate.accuracy_interval
        table.add_row(
            "→" if candidate is chosen else "*" if candidate in front else "",
            candidate.name,
            f"{candidate.accuracy:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{candidate.loss:.3f}",
            quantity(candidate.flops),
            quantity(candidate.macs),
            quantity(candidate.parameters),
            "?" if candidate.latency_ms is None else f"{candidate.latency_ms:.2f} ms",
            f"{candidate.size_bytes / 2**20:.1f} MiB",
            style="bold" if candidate is chosen else None,
        )
    return table


def quantity(value: float | None) -> str:
    """401.2M, 1.11G; a question mark where it is not known."""
    if value is None:
        return "?"
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.{2 if suffix == 'G' else 1}f}{suffix}"
    return f"{value:g}"
