"""Compute the table of candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lctprune.config.combined import PROGRESSIVE
from lctprune.config.metric import METRIC_NAMES, is_lower_better, score_text
from lctprune.measure.candidates import Candidate
from lctprune.measure.selection import main_of, pareto_front
from lctprune.measure.units import engineering, latency_conditions
from lctprune.reports.formats import begun, percent, percent_interval
from lctprune.reports.grid import Cell, Row, Table

WILSON, NORMAL = "Wilson's 95% interval", "the 95% interval of the normal distribution"
UNITS = (
    "{Scores}: on the validation split, with {interval}; loss is the mean per sample. "
    "FLOPs: per sample, where 1 FLOP is one multiply or one add (one multiply-add, MAC, is 2 FLOPs). "
    "Latency: median of one call at batch {batch} in {conditions}, on the machine that evaluated the run, with 5th and "
    "95th percentile. "
    "Size: of weights and buffers; 1 MB is 1,000,000 bytes. "
    "Front: no other exit is at least as good in {metric} at no more FLOPs, and better in one of the two."
)
COLUMNS = ("network", "{metric}", "loss", "FLOPs", "of main", "parameters", "size", "latency", "front")
UNKNOWN = "not known"
AS_NUMBERS = (METRIC_NAMES["r2"], METRIC_NAMES["loss"])  # metrics that are not shown in percent


def candidate_table(candidates: Sequence[Candidate], chosen: Candidate | None, *, further: str = "") -> Table:
    """Return a row for each candidate, with its score and costs.

    Args:
        candidates: measured candidates, at least one.
        chosen: candidate to highlight.
        further: what has to be known of the intervals besides, a clause without a full stop.
    """
    front = pareto_front(candidates, "flops")
    main, metric = main_of(candidates), candidates[0].metric
    rows = []
    for candidate in candidates:
        is_chosen = chosen is not None and candidate.key == chosen.key
        cells = _cells(candidate, main, candidate in front, is_chosen)
        rows.append(Row(cells=cells, chosen=is_chosen, exit=candidate.key))
    samples = {candidate.samples for candidate in candidates if candidate.samples}
    counted = f"Validation samples: {', '.join(f'{count:,}' for count in sorted(samples))}. " if samples else ""
    units = UNITS.format(
        Scores=begun(metric) + ("" if metric == "loss" else " and loss"),
        metric=metric,
        interval=WILSON if metric == "accuracy" else NORMAL,
        batch=candidates[0].latency_batch,
        conditions=latency_conditions(candidates),
    )
    columns = [column.format(metric=metric) for column in COLUMNS if metric != "loss" or column != "loss"]
    return Table(columns=columns, rows=rows, note=counted + units + (f" {begun(further)}." if further else ""))


def score_interval_text(candidate: Candidate) -> str:
    """Write the 95% interval of a candidate's score; "" where it is not known."""
    low, high = candidate.score_interval
    if not candidate.samples or not math.isfinite(low + high):
        return ""
    if candidate.metric in AS_NUMBERS:
        return f"{low:.4g} to {high:.4g}" if is_lower_better(candidate.metric) else f"{low:.3f} to {high:.3f}"
    return percent_interval(low, high)


def _cells(candidate: Candidate, main: Candidate, on_front: bool, is_chosen: bool) -> list[Cell]:
    """Return the cells of a candidate's row, in the order of `COLUMNS`."""
    flops, latency = candidate.flops, candidate.latency_ms
    p5, p95 = candidate.latency_p5_ms, candidate.latency_p95_ms
    interval = score_interval_text(candidate)
    mean = ["mean per sample"] if candidate.combined == PROGRESSIVE else []
    names = [*([candidate.origin] if candidate.origin else []), *(["chosen"] if is_chosen else [])]
    share = flops / main.flops if flops and main.flops else None
    return [
        Cell(candidate.name, names, candidate.name),
        Cell(score_text(candidate.score, candidate.metric), [interval] if interval else [], _sortable(candidate.score)),
        *(
            []
            if is_lower_better(candidate.metric)
            else [
                Cell(
                    UNKNOWN if math.isnan(candidate.loss) else f"{candidate.loss:.3f}", value=_sortable(candidate.loss)
                )
            ]
        ),
        Cell(UNKNOWN) if flops is None else Cell(engineering(flops), [*mean, f"{engineering(flops / 2)} MACs"], flops),
        Cell(UNKNOWN if share is None else percent(share, 0), value=share),
        Cell(engineering(candidate.parameters), value=candidate.parameters),
        Cell(f"{candidate.size_bytes / 1e6:.3g} MB", value=candidate.size_bytes),
        Cell(
            "not measured" if latency is None else f"{latency:.3g} ms",
            mean if p5 is None or p95 is None else [f"{p5:.3g} to {p95:.3g} ms"],
            latency,
        ),
        Cell("yes" if on_front else "no" if flops is not None else UNKNOWN, value=0 if on_front else 1),
    ]


def _sortable(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
