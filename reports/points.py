"""Compute the data of the plot of scores against cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lctprune.errors import ConfigError
from lctprune.measure.candidates import Candidate
from lctprune.measure.choice import not_faster
from lctprune.measure.selection import pareto_front
from lctprune.measure.units import COSTS
from lctprune.utils.names import visible


class ParetoPoint(NamedTuple):
    """A candidate in the plot; `pandas.DataFrame(points)` has these columns.

    Attributes:
        exit: key of the candidate.
        name: name of the candidate.
        cost: cost in its unit.
        score: value of the candidates' metric on the validation split, such as accuracy, 0 to 1.
        low: lower end of the score's 95% interval; None if the number of samples is not known.
        high: upper end of the score's 95% interval; None if the number of samples is not known.
        cost_low: 5th percentile of a latency; None for other costs, or if not measured.
        cost_high: 95th percentile of a latency; None for other costs, or if not measured.
        on_front: whether no other candidate is at least as good in both.
        is_main: whether it is the main network.
        not_faster: whether it should be faster and is not, see `lctprune.measure.choice.not_faster`.
    """

    exit: int | str
    name: str
    cost: float
    score: float
    low: float | None
    high: float | None
    cost_low: float | None
    cost_high: float | None
    on_front: bool
    is_main: bool = False
    not_faster: bool = False


def pareto_points(candidates: Sequence[Candidate], cost: str) -> list[ParetoPoint]:
    """Return the points of the Pareto plot by growing cost, without candidates whose cost is not known.

    Args:
        candidates: measured candidates.
        cost: "flops", "macs", "parameters" or "latency_ms".

    Raises:
        ConfigError: there is no such cost.
    """
    if cost not in COSTS:
        raise ConfigError(f"cost is {cost!r}; it must be one of {', '.join(COSTS)}")
    front, slow = pareto_front(candidates, cost), not_faster(candidates)
    points = []
    for candidate in candidates:
        if (value := getattr(candidate, cost)) is None:
            continue
        score = math.nan if candidate.score is None else candidate.score
        low, high = candidate.score_interval if candidate.samples else (None, None)
        p5, p95 = (candidate.latency_p5_ms, candidate.latency_p95_ms) if cost == "latency_ms" else (None, None)
        points.append(
            ParetoPoint(
                exit=candidate.key,
                name=visible(candidate.name),
                cost=value,
                score=score,
                low=low,
                high=high if high is None or math.isfinite(high) else None,
                cost_low=p5,
                cost_high=p95,
                on_front=candidate in front,
                is_main=candidate.is_main,
                not_faster=candidate in slow,
            )
        )
    return sorted(points, key=lambda point: (point.cost, point.score))


def measured_costs(candidates: Sequence[Candidate]) -> list[str]:
    """Return the costs to draw: "flops" and "latency_ms" if known for any candidate, and "flops" if neither is."""
    costs = ("flops", "latency_ms")
    return [cost for cost in costs if any(getattr(each, cost) is not None for each in candidates)] or ["flops"]
