"""What the page shows of a progressive network: a point beside the front, and where samples leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lctprune.config.combined import PROGRESSIVE, ProgressiveRecord
from lctprune.measure.candidates import Candidate
from lctprune.measure.selection import main_of
from lctprune.measure.units import engineering
from lctprune.reports.formats import percent


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


def combined_points(early: ProgressiveRecord | None, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Return a point for the progressive network; none where it is a candidate, or there is another metric.

    Args:
        early: the progressive network of the run.
        candidates: measured candidates of the run.
    """
    if early is None or candidates[0].metric != "accuracy" or any(each.combined == PROGRESSIVE for each in candidates):
        return []
    figures = early.checked_on
    lines = [
        f"validation accuracy {percent(figures.accuracy, 2)}",
        f"on {figures.samples:,} samples that nothing was fitted on (main network there: "
        f"{percent(figures.main_accuracy, 2)})",
        f"mean {_share(figures.mean_flops, candidates)}",
    ]
    return [{"name": PROGRESSIVE, "score": figures.accuracy, "costs": {"flops": figures.mean_flops}, "lines": lines}]


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


def _share(flops: float, candidates: Sequence[Candidate]) -> str:
    whole = main_of(candidates).flops
    share = f" ({percent(flops / whole, 0)} of main)" if whole else ""
    return f"{engineering(flops)} FLOPs{share}"
