"""Numbers with their units, as people read them: the same on the command line, in plots and on the page."""

from __future__ import annotations

from lctprune.measure.selection import COSTS

PREFIXES = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k"}


def engineering(value: float, digits: int = 3) -> str:
    """A number with a power of 1000, such as 400M or 1.11G.

    Args:
        value: 0 or more.
        digits: significant ones that are kept; trailing zeros are not shown.
    """
    rounded = float(f"{value:.{digits}g}")  # first, so that 999,999 becomes 1M and not 1000k
    for factor, prefix in PREFIXES.items():
        if rounded >= factor:
            return f"{rounded / factor:g}{prefix}"
    return f"{rounded:g}"


def amount(value: float, cost: str) -> str:
    """A cost with its unit.

    Args:
        value: of the cost.
        cost: "flops", "macs", "parameters" or "latency_ms".
    """
    if cost == "latency_ms":
        return f"{value:.3g} ms"
    return f"{engineering(value)} {COSTS[cost]}"
