"""Write numbers with their units, in one way on the command line, in plots and on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal

from lctprune.errors import ConfigError
from lctprune.measure.candidates import Candidate, Cost
from lctprune.utils.wording import counted

COSTS: dict[Cost, str] = {  # and their units
    "flops": "FLOPs",
    "macs": "MACs",
    "parameters": "parameters",
    "latency_ms": "ms",
    "size_bytes": "B",
}
OPTIONS: dict[Cost, str] = {"parameters": "params", "size_bytes": "size"}  # of budgets, where no cost is called so
CLEARLY_MORE = 1.1  # times a limit; a cost that exceeds it by less is said to exceed it by a percentage
PREFIXES = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k"}


def engineering(value: float, digits: int = 3) -> str:
    """Write a number with a power of 1000, such as 400M or 1.11G.

    Args:
        value: number, 0 or more.
        digits: significant digits that are kept; trailing zeros are not shown.
    """
    rounded = float(f"{value:.{digits}g}")  # first, so that 999,999 becomes 1M and not 1000k
    places = max(digits, 6)  # or 1000T would have a power of ten
    for factor, prefix in PREFIXES.items():
        if rounded >= factor:
            return f"{rounded / factor:.{places}g}{prefix}"
    return f"{rounded:.{places}g}"


def number_text(value: float, digits: int = 4) -> str:
    """Write a number with so many significant digits, and never with a power of ten before it has 16 places: 16,540."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if 10**digits <= abs(rounded) < 1e15 else f"{value:.{digits}g}"


def amount(value: float, cost: str, digits: int = 3) -> str:
    """Write a cost with its unit.

    Args:
        value: value of the cost.
        cost: name of a cost in `COSTS`.
        digits: significant digits that are kept.

    Raises:
        ConfigError: there is no such cost.
    """
    if cost == "latency_ms":
        return f"{value:.{digits}g} ms"
    if cost not in COSTS:
        raise ConfigError(f"cost is {cost!r}; it must be one of {', '.join(COSTS)}")
    return f"{engineering(value, digits)}{'' if cost == 'size_bytes' else ' '}{COSTS[cost]}"


def excess_text(value: float, limit: float, cost: str) -> str:
    """Say by how much a cost exceeds a limit, with as many digits as tell the two apart.

    Args:
        value: value of the cost, above the limit.
        limit: the limit.
        cost: name of a cost in `COSTS`.
    """
    digits = next((some for some in range(3, 17) if amount(value, cost, some) != amount(limit, cost, some)), 17)
    own, bound, factor = amount(value, cost, digits), amount(limit, cost, digits), value / limit
    if factor >= CLEARLY_MORE:
        return f"{own} is {number_text(factor, 3)} times the limit of {bound}"
    by = f"{100 * (factor - 1):.1g}%" if factor > 1 + 1e-4 else "less than 0.01%"
    return f"{own} is over the limit of {bound} by {by}"


def budget_text(values: Mapping[Cost, float]) -> str:
    """Write a budget that costs keep, as settings between backticks: rounded up, and so fit to be given back.

    Args:
        values: costs, in absolute units. A latency that is measured again may be a tenth longer.
    """
    return " ".join(f"`Budget({cost}='{limit_text(value, cost)}')`" for cost, value in values.items())


def limit_text(value: float, cost: Cost) -> str:
    """Write a limit of a budget that a cost keeps: the cost rounded up, a latency by a tenth more."""
    least = Decimal(value) * (Decimal("1.1") if cost == "latency_ms" else 1)
    rounded = float(Context(prec=3, rounding=ROUND_CEILING).plus(least))
    if cost == "latency_ms":
        return f"{rounded:g}"
    return f"{engineering(rounded)}{'B' if cost == 'size_bytes' else ''}"


def budget_options(limits: Mapping[Cost, float | str]) -> list[str]:
    """Return the options of the command line that give a budget: limits by their costs, as they were given.

    Numbers, such as those that percentages came to, are rounded down for costs that are whole numbers.
    """
    words = []
    for cost, limit in limits.items():
        text = limit if isinstance(limit, str) else _number(limit, cost)
        words += [f"--budget-{OPTIONS.get(cost, cost).replace('_', '-')}", text]
    return words


def _number(limit: float, cost: Cost) -> str:
    if cost != "latency_ms" and 1 <= limit < 1e15:
        return str(math.floor(limit))
    return f"{limit:.12g}" if float(f"{limit:.12g}") == limit else repr(limit)


def latency_conditions(candidates: Sequence[Candidate]) -> str:
    """Say in which runtime latencies were measured, on how many threads and in what precision; "" without any."""
    if not candidates:
        return ""
    first = candidates[0]
    threads = "" if first.latency_threads is None else f", {counted(first.latency_threads, 'thread')}"
    precisions = ", ".join(dict.fromkeys(each.precision for each in reversed(candidates)))
    return f"{first.latency_runtime}{threads}, {precisions}"
