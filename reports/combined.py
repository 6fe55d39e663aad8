"""What the page shows of networks of several exits: points beside the front, and where samples leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lctprune.config.combined import Combined, ProgressiveRecord
from lctprune.measure.candidates import Candidate
from lctprune.measure.selection import main_of
from lctprune.measure.units import engineering
from lctprune.reports.formats import percent
from lctprune.utils.names import visible


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The samples that leave at one exit: their share of all, 0 to 1."""

    name: str
    share: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """Where samples leave a progressive network, and what that comes to, in words."""

    bars: Sequence[Bar]
    note: str


def combined_points(combined: Combined, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Return a point for the progressive network and one for the ensemble, where candidates are compared by accuracy.

    Args:
        combined: what was made of the run.
        candidates: measured candidates of the run.
    """
    if candidates[0].metric != "accuracy":
        return []
    points = []
    if (early := combined.progressive) is not None:
        figures, costs = early.checked_on, {"flops": early.checked_on.mean_flops}
        lines = [
            f"validation accuracy {percent(figures.accuracy, 2)}",
            f"on {figures.samples:,} samples that nothing was fitted on (main network there: "
            f"{percent(figures.main_accuracy, 2)})",
            f"mean {_share(figures.mean_flops, candidates)}",
        ]
        points.append(_point("progressive", "progressive", figures.accuracy, costs, lines))
    if (together := combined.ensemble) is not None:
        own = together.validation
        known = {"flops": own.flops, "latency_ms": own.latency_ms, "parameters": own.parameters}
        costs = {name: value for name, value in {**known, "size_bytes": own.size_bytes}.items() if value is not None}
        lines = [f"validation accuracy {percent(own.accuracy, 2)}"]
        lines += [_share(own.flops, candidates)] if own.flops else []
        points.append(_point("ensemble", f"ensemble: {visible(own.name)}", own.accuracy, costs, lines))
    return points


def leaving(record: ProgressiveRecord | None, candidates: Sequence[Candidate]) -> Leaving | None:
    """Return where test samples leave the progressive network; None without one.

    Args:
        record: the progressive network.
        candidates: measured candidates of the run.
    """
    if record is None:
        return None
    test = record.test
    bars = [
        Bar(name=exit.name, share=share, text=percent(share))
        for exit, share in zip(record.exits, test.shares, strict=True)
    ]
    note = (
        f"Test split, {test.samples:,} samples: accuracy {percent(test.accuracy, 2)}, the main network's "
        f"{percent(test.main_accuracy, 2)}, at a mean of {_share(test.mean_flops, candidates)} per sample."
    )
    return Leaving(bars=bars, note=note)


def _point(kind: str, name: str, score: float, costs: dict[str, Any], lines: Sequence[str]) -> dict[str, Any]:
    return {"kind": kind, "name": name, "score": score, "costs": costs, "lines": [*lines]}


def _share(flops: float, candidates: Sequence[Candidate]) -> str:
    whole = main_of(candidates).flops
    share = f" ({percent(flops / whole, 0)} of main)" if whole else ""
    return f"{engineering(flops)} FLOPs{share}"
