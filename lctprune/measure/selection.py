"""Choose among measured candidates: the Pareto front, and the most accurate one that fits a budget. All functions here
are pure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from lctprune.errors import BudgetError, ConfigError
from lctprune.measure.candidates import MAIN, Candidate

COSTS = {"flops": "FLOPs", "macs": "MACs", "parameters": "parameters", "latency_ms": "ms"}  # with their units
_SUFFIXES = {"k": Decimal(10**3), "m": Decimal(10**6), "g": Decimal(10**9), "b": Decimal(10**9), "t": Decimal(10**12)}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper limits, each inclusive; None is no limit.

    A limit is a number, or text: "1e9", "1G", "500M" (powers of 1000), or "60%" of what the main network costs.

    Raises:
        ConfigError: a limit is not a positive, finite number.
    """

    flops: float | str | None = None
    macs: float | str | None = None
    parameters: float | str | None = None
    latency_ms: float | str | None = None

    def __post_init__(self) -> None:
        for cost, limit in self._given().items():
            parse_limit(limit, name=cost)

    def limits(self, main: Candidate) -> dict[str, float]:
        """The limits as plain numbers, by the name of the cost; percentages are of `main`.

        Raises:
            ConfigError: a percentage of a cost that is not known.
        """
        limits = {}
        for cost, given in self._given().items():
            value, is_share = parse_limit(given, name=cost)
            whole = getattr(main, cost) if is_share else 1
            if whole is None:
                raise ConfigError(f"{given} of the main network's {cost} means nothing: they were not measured")
            limits[cost] = limit = float(value * Decimal(whole))
            if not (math.isfinite(limit) and limit > 0):
                raise ConfigError(f"budget {cost} is {given!r}, beyond what can be computed with; give a usual number")
        return limits

    def _given(self) -> dict[str, float | str]:
        return {cost: limit for cost, limit in dataclasses.asdict(self).items() if limit is not None}


def parse_limit(given: float | str, *, name: str = "limit") -> tuple[Decimal, bool]:
    """A limit's value, exactly, and whether it is a share of the main network's cost.

    Raises:
        ConfigError: it is not a positive, finite number.
    """
    text = str(given).strip().lower()
    is_share = text.endswith("%")
    factor = Decimal("0.01") if is_share else _SUFFIXES.get(text[-1:], Decimal(1))
    number = text[:-1] if is_share or text[-1:] in _SUFFIXES else text
    try:
        value = Decimal(number) * factor
    except ArithmeticError:
        value = Decimal("nan")
    if not (math.isfinite(value) and value > 0):
        such = "5" if name == "latency_ms" else "1e9, 500M"
        raise ConfigError(
            f"budget {name} is {given!r}; it must be a positive number such as {such}, or 60% of the main network"
        )
    return value, is_share


def pareto_front(candidates: Sequence[Candidate], cost: str = "flops") -> list[Candidate]:
    """The candidates that no other one beats: none is at least as accurate and at most as costly, and better in one.

    Args:
        candidates: in any order.
        cost: name of a `Candidate`'s cost; candidates whose cost is not known are left out.

    Returns:
        In order of growing cost. Candidates equal in both are all kept.
    """
    known = sorted(
        (candidate for candidate in candidates if getattr(candidate, cost) is not None),
        key=lambda candidate: (getattr(candidate, cost), -candidate.accuracy),
    )
    front: list[Candidate] = []
    for candidate in known:
        better = not front or candidate.accuracy > front[-1].accuracy
        if better or _same(candidate, front[-1], cost):
            front.append(candidate)
    return front


def select(candidates: Sequence[Candidate], budget: Budget) -> Candidate:
    """The most accurate candidate that fits every limit; of equally accurate ones, the cheapest.

    Raises:
        BudgetError: none fits. It names the candidate that misses by the smallest factor.
    """
    possible = fitting(candidates, budget)
    if not possible:
        raise _nothing_fits(candidates, _limits(candidates, budget))
    return max(possible, key=lambda candidate: (candidate.accuracy, -_cost(candidate), -candidate.parameters))


def fitting(candidates: Sequence[Candidate], budget: Budget) -> list[Candidate]:
    """The candidates that fit every limit; one whose cost is not known does not fit a limit on it.

    Raises:
        BudgetError: there are no candidates.
    """
    limits = _limits(candidates, budget)
    return [candidate for candidate in candidates if _excess(candidate, limits) <= 1]


def cheaper_alternative(candidates: Sequence[Candidate], budget: Budget, chosen: Candidate) -> Candidate | None:
    """The cheapest fitting candidate, in FLOPs, whose accuracy is statistically no worse than that of `chosen`; None
    where no cheaper one is.

    "No worse": the 95% interval of the difference of the two shares contains 0 (Newcombe 1998, method 10, which takes
    the two as independent and so errs towards naming an alternative).
    """
    alternatives = [
        candidate
        for candidate in fitting(candidates, budget)
        if _cost(candidate) < _cost(chosen) and not _significantly_worse(candidate, chosen)
    ]
    return min(alternatives, key=_cost, default=None)


def _limits(candidates: Sequence[Candidate], budget: Budget) -> dict[str, float]:
    if not candidates:
        raise BudgetError("there are no candidates to choose from; train a network first")
    return budget.limits(main_of(candidates))


def main_of(candidates: Sequence[Candidate]) -> Candidate:
    """The main network among them; where none has its name, the last exit."""
    named = (candidate for candidate in candidates if candidate.name == MAIN)
    return next(named, max(candidates, key=lambda candidate: candidate.exit))


def _nothing_fits(candidates: Sequence[Candidate], limits: dict[str, float]) -> BudgetError:
    nearest = min(candidates, key=lambda candidate: _excess(candidate, limits))
    if math.isinf(_excess(nearest, limits)):
        return BudgetError(f"no candidate fits: the cost in {' and '.join(limits)} was not measured")
    misses = {cost: getattr(nearest, cost) / limit for cost, limit in limits.items() if getattr(nearest, cost) > limit}
    details = " and ".join(
        f"{getattr(nearest, cost):.4g} {COSTS[cost]} is {factor:.3g} times the limit of {limits[cost]:.4g}"
        for cost, factor in misses.items()
    )
    return BudgetError(f"no candidate fits; the nearest is {nearest.name}: {details}", nearest, misses)


def _excess(candidate: Candidate, limits: dict[str, float]) -> float:
    """The largest cost / limit; infinite where a cost is not known."""
    costs = {cost: getattr(candidate, cost) for cost in limits}
    return max(
        (math.inf if costs[cost] is None else costs[cost] / limit for cost, limit in limits.items()), default=0.0
    )


def _cost(candidate: Candidate) -> float:
    return math.inf if candidate.flops is None else candidate.flops


def _same(left: Candidate, right: Candidate, cost: str) -> bool:
    return bool(left.accuracy == right.accuracy and getattr(left, cost) == getattr(right, cost))


def _significantly_worse(candidate: Candidate, chosen: Candidate) -> bool:
    if not candidate.samples or not chosen.samples:
        return candidate.accuracy < chosen.accuracy
    difference = chosen.accuracy - candidate.accuracy
    chosen_low, _ = chosen.accuracy_interval
    _, candidate_high = candidate.accuracy_interval
    return difference > math.hypot(chosen.accuracy - chosen_low, candidate_high - candidate.accuracy)
