"""Write numbers with their units, in one way on the command line, in plots and on the page."""

from __future__ import annotations

from collections.abc import Sequence

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
PREFIXES = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k"}


def engineering(value: float, digits: int = 3) -> str:
    """Write a number with a power of 1000, such as 400M or 1.11G.

    Args:
        value: number, 0 or more.
        digits: significant digits that are kept; trailing zeros are not shown.
    """
    rounded = float(f"{value:.{digits}g}")  # first, so that 999,999 becomes 1M and not 1000k
    for factor, prefix in PREFIXES.items():
        if rounded >= factor:
            return f"{rounded / factor:g}{prefix}"
    return f"{rounded:g}"


def number_text(value: float, digits: int = 4) -> str:
    """Write a number with so many significant digits, and never with a power of ten before it has 16 places: 16,540."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if 10**digits <= abs(rounded) < 1e15 else f"{value:.{digits}g}"


def amount(value: float, cost: str) -> str:
    """Write a cost with its unit.

    Args:
        value: value of the cost.
        cost: name of a cost in `COSTS`.

    Raises:
        ConfigError: there is no such cost.
    """
    if cost == "latency_ms":
        return f"{value:.3g} ms"
    if cost not in COSTS:
        raise ConfigError(f"cost is {cost!r}; it must be one of {', '.join(COSTS)}")
    return f"{engineering(value)}{COSTS[cost]}" if cost == "size_bytes" else f"{engineering(value)} {COSTS[cost]}"


def latency_conditions(candidates: Sequence[Candidate]) -> str:
    """Say in which runtime latencies were measured, on how many threads and in what precision; "" without any."""
    if not candidates:
        return ""
    first = candidates[0]
    threads = "" if first.latency_threads is None else f", {counted(first.latency_threads, 'thread')}"
    precisions = ", ".join(dict.fromkeys(each.precision for each in reversed(candidates)))
    return f"{first.latency_runtime}{threads}, {precisions}"
