"""Compute what the interactive plots of the page draw, as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import pandas

from lctprune.config.combined import PROGRESSIVE
from lctprune.config.metric import is_lower_better, score_text
from lctprune.measure.candidates import Candidate
from lctprune.measure.choice import select
from lctprune.measure.selection import Limits, main_of, pareto_front
from lctprune.measure.units import engineering
from lctprune.reports.candidate_table import AS_NUMBERS, score_interval_text
from lctprune.reports.curves import QUANTITIES, training_curves
from lctprune.reports.formats import percent
from lctprune.utils.names import visible

MOST_PERCENT = 400  # of the main network's cost, to which the slider reaches
MOST_EPOCHS = 500  # drawn of a curve


class PageCost(NamedTuple):
    """A cost that the page compares candidates by.

    Attributes:
        name: field of `Candidate`.
        title: name for people.
        label: label of the axis.
        option: option of `select` that limits it; "" if there is none.
    """

    name: str
    title: str
    label: str
    option: str


COSTS = (
    PageCost("flops", "FLOPs", "FLOPs per sample", "--budget-flops"),
    PageCost("latency_ms", "latency", "median latency, batch {batch} (ms)", "--budget-latency-ms"),
    PageCost("parameters", "parameters", "parameters", "--budget-params"),
    PageCost("size_bytes", "size", "size of weights and buffers (bytes)", ""),
)


def front_payload(
    candidates: Sequence[Candidate], chosen: Candidate | None, budget: Mapping[str, float], command: str
) -> dict[str, Any]:
    """Return the candidates, and for each cost the front and what a budget chooses.

    Args:
        candidates: measured candidates, at least one.
        chosen: chosen candidate.
        budget: plain limits by the name of the cost.
        command: beginning of the command that chooses, to which an option is added.
    """
    metric, main = candidates[0].metric, main_of(candidates)
    known = [cost for cost in COSTS if any(getattr(each, cost.name) is not None for each in candidates)]
    limits = dict(budget)
    if "macs" in limits:
        limits["flops"] = min(2 * limits["macs"], limits.get("flops", math.inf))
    return {
        "metric": metric,
        "is_percent": metric not in AS_NUMBERS,
        "lower_is_better": is_lower_better(metric),
        "command": command,
        "chosen": chosen and chosen.key,
        "candidates": [_described(each, main) for each in candidates],
        "costs": [_cost(cost, candidates, main, limits.get(cost.name)) for cost in known],
    }


def _described(candidate: Candidate, main: Candidate) -> dict[str, Any]:
    """Return a candidate's score, and the lines that say all of it."""
    score, interval = candidate.score, score_interval_text(candidate)
    low, high = candidate.score_interval if interval else (None, None)
    shown = score_text(score, candidate.metric, 2)
    lines = [f"validation {candidate.metric} {shown}" + (f" (95%: {interval})" if interval else "")]
    for cost in COSTS:
        value, whole = getattr(candidate, cost.name), getattr(main, cost.name)
        if value is not None:
            share = f" ({percent(value / whole, 0)} of main)" if whole and candidate is not main else ""
            mean = "mean " if candidate.combined == PROGRESSIVE and cost.name in ("flops", "latency_ms") else ""
            lines.append(f"{mean}{_exactly(value, cost.name)}{share}")
    return {
        "exit": candidate.key,
        "name": visible(candidate.name),
        "score": score if score is not None and math.isfinite(score) else None,
        "shown": score_text(score, candidate.metric),
        "low": low,
        "high": high,
        "lines": lines,
        "is_main": candidate is main,
    }


def _exactly(value: float, cost: str) -> str:
    if cost == "latency_ms":
        return f"{value:.3f} ms"
    return f"{value:,} {({'flops': 'FLOPs', 'size_bytes': 'bytes'}).get(cost, cost)}"


def _amount(value: float, cost: str) -> str:
    if cost == "latency_ms":
        return f"{value:.3g} ms"
    return f"{engineering(value)} {({'flops': 'FLOPs', 'size_bytes': 'bytes'}).get(cost, cost)}"


def _cost(cost: PageCost, candidates: Sequence[Candidate], main: Candidate, limit: float | None) -> dict[str, Any]:
    front = _front(candidates, cost.name)
    points = []
    for each in candidates:
        if (value := getattr(each, cost.name)) is not None:
            p5, p95 = (each.latency_p5_ms, each.latency_p95_ms) if cost.name == "latency_ms" else (None, None)
            point = {"exit": each.key, "cost": value, "cost_low": p5, "cost_high": p95, "on_front": each in front}
            points.append(point)
    missing = [visible(each.name) for each in candidates if getattr(each, cost.name) is None]
    return {
        "name": cost.name,
        "title": cost.title,
        "label": cost.label.format(batch=candidates[0].latency_batch),
        "option": cost.option,
        "limit": limit,
        "limit_text": None if limit is None else f"At most {_amount(limit, cost.name)}, as selected",
        "missing": f"Not shown, as not measured: {', '.join(missing)}." if missing else "",
        "points": sorted(points, key=lambda point: point["cost"]),
        "steps": _steps(cost, candidates, main),
    }


def _front(candidates: Sequence[Candidate], cost: str) -> list[Candidate]:
    return pareto_front(candidates, cost)  # type: ignore[arg-type]  # any field that holds a number serves


def _steps(cost: PageCost, candidates: Sequence[Candidate], main: Candidate) -> list[dict[str, Any]]:
    """Return what the library chooses under every limit of a whole percentage of the main network's cost.

    The last step is without a limit.
    """
    whole = getattr(main, cost.name)
    costs = [getattr(each, cost.name) for each in candidates]
    known = [(value, each) for value, each in zip(costs, candidates, strict=True) if value is not None]
    steps: list[dict[str, Any]] = []
    if whole:
        top = min(MOST_PERCENT, max(100, math.ceil(100 * max(value for value, _ in known) / whole)))
        for percentage in range(1, top + 1):
            limit = float(Decimal(percentage).scaleb(-2) * Decimal(whole))  # as `Budget` has it
            fits = [each for value, each in known if value <= limit]
            steps.append(
                {
                    "percent": percentage,
                    "limit": limit,
                    "text": f"At most {percentage}% of the main network: {_amount(limit, cost.name)}",
                    "exit": select(fits, Limits({})).key if fits else None,
                }
            )
    best = select(candidates, Limits({})).key
    return [*steps, {"percent": None, "limit": None, "text": "No limit", "exit": best}]


def curves_payload(
    metrics: pandas.DataFrame, quantities: Sequence[str], metric: str, names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return the curves of training that the run measured, a plot for each quantity.

    Args:
        metrics: table from `metrics_frame`.
        quantities: quantities, as for `training_curves`.
        metric: name of the quantity "val_accuracy".
        names: names of the exits by their numbers.
    """
    plots = []
    for quantity in quantities:
        curves = training_curves(metrics, quantity)
        if curves.empty:
            continue
        curves = curves.iloc[:: -(-len(curves) // MOST_EPOCHS)]
        series = [
            {
                "name": visible(names[int(exit)]),
                "values": [value if math.isfinite(value) else None for value in curves[exit]],
            }
            for exit in curves.columns
        ]
        plots.append(
            {
                "label": QUANTITIES[quantity].format(metric=metric),
                "is_percent": quantity.startswith("val_") and quantity not in ("val_loss", "val_r2") and metric != "R2",
                "epochs": curves.index.tolist(),
                "series": series,
            }
        )
    return plots
