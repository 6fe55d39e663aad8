"""Find the candidates to choose among: the Pareto front, and those that fit a budget.

All functions here are pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from lctprune.errors import BudgetError, ConfigError
from lctprune.measure.candidates import Candidate, Cost
from lctprune.measure.units import COSTS

NEAR = 0.05  # by which a near miss exceeds a limit, as a fraction of the limit
_SUFFIXES = {"k": Decimal(10**3), "m": Decimal(10**6), "g": Decimal(10**9), "b": Decimal(10**9), "t": Decimal(10**12)}
_UNITS = {  # of a cost, longer ones before those that they end with
    "size_bytes": {"kib": Decimal(2**10), "mib": Decimal(2**20), "gib": Decimal(2**30)},
    "latency_ms": {
        "ms": Decimal(1),
        "us": Decimal("0.001"),
        "\u00b5s": Decimal("0.001"),
        "\u03bcs": Decimal("0.001"),
        "s": Decimal(1000),
    },
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper limits on the costs of a network, each inclusive; None is no limit.

    A limit is a number, or text: "1e9", "1G", "500M" (powers of 1000), or "60%" of what the main network costs.

    Attributes:
        flops: limit of FLOPs (multiplies and adds) per sample.
        macs: limit of multiply-adds per sample; half as many as FLOPs.
        parameters: limit of the number of parameters.
        latency_ms: limit of the median time per call, in milliseconds; as text also "5ms", "400us" or "0.1s".
        size_bytes: limit of the size of parameters and buffers, in bytes; as text also "5MB" or "5MiB".

    Raises:
        ConfigError: a limit is not a positive, finite number.
    """

    flops: float | str | None = None
    macs: float | str | None = None
    parameters: float | str | None = None
    latency_ms: float | str | None = None
    size_bytes: float | str | None = None

    def __post_init__(self) -> None:
        for cost, limit in self.given.items():
            parse_limit(limit, name=cost)

    def limits(self, main: Candidate) -> Limits:
        """Compute the limits in absolute units; percentages are of `main`.

        Raises:
            ConfigError: a percentage is of a cost that is not known.
        """
        limits, percentages = {}, []
        for cost, given in self.given.items():
            value, is_fraction = parse_limit(given, name=cost)
            percentages += [cost] * is_fraction
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
        return Limits(limits, percentages)

    @property
    def given(self) -> dict[Cost, float | str]:
        """The limits that there are, as they were given."""
        given = {cost: getattr(self, cost) for cost in COSTS}
        return {cost: limit for cost, limit in given.items() if limit is not None}


class Limits(Mapping[str, float]):
    """A budget in absolute units: the largest value of each cost that is limited, by the cost's name.

    Args:
        values: limits, inclusive.
        percentages: names of the costs whose limits were given as a percentage.

    Raises:
        ConfigError: a name is not that of a cost, or a limit is not a positive, finite number.
    """

    def __init__(self, values: Mapping[Cost, float] | Mapping[str, float], percentages: Collection[str] = ()) -> None:
        self.percentages = frozenset(percentages)
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
    if name == "size_bytes" and not text.endswith("ib"):
        text = text.removesuffix("b")
    units = {"%": Decimal("0.01"), **_UNITS.get(name, {}), **_SUFFIXES}
    unit = next((each for each in units if text.endswith(each)), "")
    try:
        value = Decimal(text.removesuffix(unit)) * units.get(unit, Decimal(1))
    except ArithmeticError:
        value = Decimal("nan")
    if not (math.isfinite(value) and value > 0):
        such = {"latency_ms": "5 or 5ms", "size_bytes": "5MB, 800kB"}.get(name, "1e9, 500M")
        raise ConfigError(
            f"budget {name} is {given!r}; it must be a positive number such as {such}, or 60% of the main network"
        )
    return value, unit == "%"


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


def fitting(candidates: Sequence[Candidate], budget: Budget | Limits) -> list[Candidate]:
    """List the candidates that fit every limit; one whose cost is not known does not fit a limit on it.

    Args:
        candidates: measured candidates.
        budget: budget, as in `select`.

    Raises:
        BudgetError: there are no candidates.
    """
    limits = limits_of(candidates, budget)
    return [candidate for candidate in candidates if limits.excess(candidate) <= 1]


def limits_of(candidates: Sequence[Candidate], budget: Budget | Limits) -> Limits:
    """Return a budget in absolute units.

    Raises:
        BudgetError: there are no candidates.
    """
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
    limits = limits_of(candidates, budget)
    near = [each for each in candidates if 1 < limits.excess(each) <= 1 + NEAR and each.merit > chosen.merit]
    return sorted(near, key=limits.excess)
