"""Choose among measured candidates: the Pareto front, and the best candidate that fits a budget.

All functions here are pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from lctprune.config.metric import is_lower_better
from lctprune.errors import BudgetError, ConfigError
from lctprune.measure.candidates import Candidate, Cost
from lctprune.measure.misses import nothing_fits
from lctprune.measure.units import COSTS

NEAR = 0.05  # by which a near miss exceeds a limit, as a fraction of the limit
_SUFFIXES = {"k": Decimal(10**3), "m": Decimal(10**6), "g": Decimal(10**9), "b": Decimal(10**9), "t": Decimal(10**12)}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper limits on the costs of a network, each inclusive; None is no limit.

    A limit is a number, or text: "1e9", "1G", "500M" (powers of 1000), or "60%" of what the main network costs.

    Attributes:
        flops: limit of FLOPs (multiplies and adds) per sample.
        macs: limit of multiply-adds per sample; half as many as FLOPs.
        parameters: limit of the number of parameters.
        latency_ms: limit of the median time per call, in milliseconds.

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

    def limits(self, main: Candidate) -> Limits:
        """Compute the limits in absolute units; percentages are of `main`.

        Raises:
            ConfigError: a percentage is of a cost that is not known.
        """
        limits = {}
        for cost, given in self._given().items():
            value, is_fraction = parse_limit(given, name=cost)
            whole = main.cost(cost) if is_fraction else 1
            if whole is None:
                raise ConfigError(
                    f"budget {cost} is {given} of the main network's, whose {cost} was not measured; give a number, or "
                    "limit another cost"
                )
            limits[cost] = limit = float(value * Decimal(whole))
            if not (math.isfinite(limit) and limit > 0):
                raise ConfigError(
                    f"budget {cost} is {given!r}, which is too large or too small; give a number such as 1e9"
                )
        return Limits(limits)

    def _given(self) -> dict[Cost, float | str]:
        given = {cost: getattr(self, cost) for cost in COSTS}
        return {cost: limit for cost, limit in given.items() if limit is not None}


class Limits(Mapping[str, float]):
    """A budget in absolute units: the largest value of each cost that is limited, by the cost's name.

    Args:
        values: limits, inclusive.

    Raises:
        ConfigError: a name is not that of a cost, or a limit is not a positive, finite number.
    """

    def __init__(self, values: Mapping[Cost, float] | Mapping[str, float]) -> None:
        if unknown := sorted(set(values) - set(COSTS)):
            raise ConfigError(f"budget names {', '.join(unknown)}; it may name {', '.join(COSTS)}")
        self._values = {cost: float(values[cost]) for cost in COSTS if cost in values}
        for cost, limit in self._values.items():
            parse_limit(limit, name=cost)

    def __getitem__(self, cost: str) -> float:
        if cost not in self._values:
            raise KeyError(cost)
        return self._values[cost]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def excess(self, candidate: Candidate) -> float:
        """Compute the largest cost / limit; infinity where a cost is not known, 0 without limits."""
        return max(self._factors(candidate).values(), default=0.0)

    def misses(self, candidate: Candidate) -> dict[Cost, float]:
        """Compute cost / limit for each limit that a candidate exceeds."""
        return {name: factor for name, factor in self._factors(candidate).items() if factor > 1}

    def _factors(self, candidate: Candidate) -> dict[Cost, float]:
        costs = {name: candidate.cost(name) for name in self._values}
        return {name: math.inf if cost is None else cost / self._values[name] for name, cost in costs.items()}


def parse_limit(given: float | str, *, name: str = "limit") -> tuple[Decimal, bool]:
    """Parse a limit: its exact value, and whether it is a fraction of the main network's cost.

    Raises:
        ConfigError: it is not a positive, finite number.
    """
    text = str(given).strip().lower()
    is_fraction = text.endswith("%")
    factor = Decimal("0.01") if is_fraction else _SUFFIXES.get(text[-1:], Decimal(1))
    number = text[:-1] if is_fraction or text[-1:] in _SUFFIXES else text
    try:
        value = Decimal(number) * factor
    except ArithmeticError:
        value = Decimal("nan")
    if not (math.isfinite(value) and value > 0):
        such = "5" if name == "latency_ms" else "1e9, 500M"
        raise ConfigError(
            f"budget {name} is {given!r}; it must be a positive number such as {such}, or 60% of the main network"
        )
    return value, is_fraction


def pareto_front(candidates: Sequence[Candidate], cost: Cost = "flops") -> list[Candidate]:
    """Return the Pareto front: the candidates that no other beats in the metric or cost without losing in the other.

    Args:
        candidates: candidates in any order.
        cost: name of the cost; candidates whose cost is not known are left out.

    Returns:
        The front by increasing cost. Of candidates that are equal in both, all are kept.
    """
    known = [(value, candidate) for candidate in candidates if (value := candidate.cost(cost)) is not None]
    front: list[tuple[float, Candidate]] = []
    for value, candidate in sorted(known, key=lambda each: (each[0], -each[1].merit)):
        is_better = not front or candidate.merit > front[-1][1].merit
        if is_better or (value, candidate.merit) == (front[-1][0], front[-1][1].merit):
            front.append((value, candidate))
    return [candidate for _, candidate in front]


def select(candidates: Sequence[Candidate], budget: Budget | Limits) -> Candidate:
    """Choose the best candidate by its metric within a budget; among equally good ones, the one with the fewest FLOPs.

    Args:
        candidates: measured candidates.
        budget: budget, or its limits in absolute units from `Budget.limits`.

    Raises:
        BudgetError: no candidate fits; the error names the one that misses by the smallest factor.
    """
    limits = _limits(candidates, budget)
    possible = fitting(candidates, limits)
    if not possible:
        raise nothing_fits(candidates, limits, main_of(candidates))
    return max(possible, key=lambda candidate: (candidate.merit, -_cost(candidate), -candidate.parameters))


def fitting(candidates: Sequence[Candidate], budget: Budget | Limits) -> list[Candidate]:
    """List the candidates that fit every limit; one whose cost is not known does not fit a limit on it.

    Args:
        candidates: measured candidates.
        budget: budget, as in `select`.

    Raises:
        BudgetError: there are no candidates.
    """
    limits = _limits(candidates, budget)
    return [candidate for candidate in candidates if limits.excess(candidate) <= 1]


def cheaper_alternative(
    candidates: Sequence[Candidate], budget: Budget | Limits, chosen: Candidate
) -> Candidate | None:
    """Return the candidate with the fewest FLOPs within a budget that is not significantly worse than `chosen`.

    Not significantly: the 95% interval of the difference of the two scores contains 0 (Newcombe 1998, method 10,
    which takes the two as independent and so errs towards naming an alternative). Where the standard error of a score
    is not known, only a candidate that is as good is one.

    Args:
        candidates: measured candidates.
        budget: budget, as in `select`.
        chosen: candidate to compare with, such as the result of `select`.

    Returns:
        The alternative; None where no cheaper candidate is as good.
    """
    alternatives = [
        candidate
        for candidate in fitting(candidates, budget)
        if _cost(candidate) < _cost(chosen) and not _significantly_worse(candidate, chosen)
    ]
    return min(alternatives, key=_cost, default=None)


def _limits(candidates: Sequence[Candidate], budget: Budget | Limits) -> Limits:
    if not candidates:
        raise BudgetError("there are no candidates to choose from; train a network first")
    return budget.limits(main_of(candidates)) if isinstance(budget, Budget) else budget


def main_of(candidates: Sequence[Candidate]) -> Candidate:
    """Find the main network; where no candidate is marked as such, the last exit."""
    marked = (candidate for candidate in candidates if candidate.is_main)
    return next(marked, max(candidates, key=lambda candidate: candidate.exit))


def near_misses(candidates: Sequence[Candidate], budget: Budget | Limits, chosen: Candidate) -> list[Candidate]:
    """List candidates that are better than the chosen one and miss the budget by at most `NEAR`, the nearest first.

    Args:
        candidates: measured candidates.
        budget: budget, as in `select`.
        chosen: result of `select`.
    """
    limits = _limits(candidates, budget)
    near = [each for each in candidates if 1 < limits.excess(each) <= 1 + NEAR and each.merit > chosen.merit]
    return sorted(near, key=limits.excess)


def _cost(candidate: Candidate) -> float:
    return math.inf if candidate.flops is None else candidate.flops


def _significantly_worse(candidate: Candidate, chosen: Candidate) -> bool:
    is_known = all(each.accuracy_error is not None or each.metric == "accuracy" for each in (candidate, chosen))
    if not is_known or not candidate.samples or not chosen.samples or math.isinf(candidate.merit):
        return candidate.merit < chosen.merit
    return chosen.merit - candidate.merit > math.hypot(
        _reach(chosen, towards_worse=True), _reach(candidate, towards_worse=False)
    )


def _reach(candidate: Candidate, *, towards_worse: bool) -> float:
    """Return how far the interval of the score reaches in one direction."""
    (low, high), score = candidate.score_interval, candidate.score or 0.0
    return score - low if towards_worse != is_lower_better(candidate.metric) else high - score
