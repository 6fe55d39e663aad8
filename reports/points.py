"""The data of the plot of accuracy against cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lctprune.errors import ConfigError
from lctprune.measure.candidates import Candidate
from lctprune.measure.selection import COSTS, pareto_front


class ParetoPoint(NamedTuple):
    """A candidate in the plot; `pandas.DataFrame(points)` has these columns.

    Attributes:
        exit, name: of the candidate.
        cost: in its unit.
        accuracy: 0 to 1.
        low, high: the accuracy's 95% interval; None where the number of samples is not known.
        cost_low, cost_high: 5th and 95th percentile of a latency; None of other costs, or where not measured.
        on_front: no other candidate is at least as good in both.
    """

    exit: int
    name: str
    cost: float
    accuracy: float
    low: float | None
    high: float | None
    cost_low: float | None
    cost_high: float | None
    on_front: bool


def pareto_points(candidates: Sequence[Candidate], cost: str) -> list[ParetoPoint]:
    """What the Pareto plot shows, by growing cost; candidates whose cost is not known are left out.

    Args:
        candidates: measured.
        cost: "flops", "macs", "parameters" or "latency_ms".

    Raises:
        ConfigError: there is no such cost.
    """
    if cost not in COSTS:
        raise ConfigError(f"cost is {cost!r}; it must be one of {', '.join(COSTS)}")
    front = pareto_front(candidates, cost)
    points = []
    for candidate in candidates:
        if (value := getattr(candidate, cost)) is None:
            continue
        low, high = candidate.accuracy_interval if candidate.samples else (None, None)
        p5, p95 = (candidate.latency_p5_ms, candidate.latency_p95_ms) if cost == "latency_ms" else (None, None)
        points.append(
            ParetoPoint(
                exit=candidate.exit,
                name=candidate.name,
                cost=value,
                accuracy=candidate.accuracy,
                low=low,
                high=high,
                cost_low=p5,
                cost_high=p95,
                on_front=candidate in front,
            )
        )
    return sorted(points, key=lambda point: (point.cost, point.accuracy))


def measured_costs(candidates: Sequence[Candidate]) -> list[str]:
    """The costs that a figure has panels for: "flops" and "latency_ms" where any candidate's is known; at least one."""
    costs = ("flops", "latency_ms")
    return [cost for cost in costs if any(getattr(each, cost) is not None for each in candidates)] or ["flops"]
