"""Say by how much every candidate misses a budget, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lctprune.errors import BudgetError
from lctprune.measure.candidates import Candidate, left_out
from lctprune.measure.units import amount, number_text

if TYPE_CHECKING:
    from lctprune.measure.selection import Limits

# a command line finds out which of them does
SMALLER = "give a larger budget; to a run of a network that goes by a name, densify or narrow may add one that fits"
PERCENT = 100  # a limit up to this was probably meant in percent: no network is so small


def nothing_fits(candidates: Sequence[Candidate], limits: Limits, main: Candidate) -> BudgetError:
    """Make the error that names the candidate which misses by the smallest factor, and the remedy.

    Args:
        candidates: measured candidates, none of which fits.
        limits: budget in absolute units.
        main: the main network.
    """
    nearest = min(candidates, key=limits.excess)
    if math.isinf(limits.excess(nearest)):
        return BudgetError(f"no candidate fits: {left_out(candidates, limits)}; limit another cost")
    misses, unknown = limits.misses(nearest), left_out(candidates, limits)
    details = " and ".join(
        f"{amount(nearest.cost(cost) or 0, cost)} is {number_text(factor, 3)} times the limit of "
        f"{amount(limits[cost], cost)}"
        for cost, factor in misses.items()
    )
    return BudgetError(
        f"no candidate fits; the nearest is {nearest.name}: {details}{unknown and f' ({unknown})'}; "
        f"{probably_meant(limits, main) or SMALLER}",
        nearest,
        {str(cost): factor for cost, factor in misses.items()},
    )


def probably_meant(limits: Limits, main: Candidate) -> str:
    """Ask whether a limit was meant in percent, which is too small for any network; else ""."""
    for cost in limits.misses(main):
        limit, whole = limits[cost], main.cost(cost)
        if cost != "latency_ms" and whole and limit <= PERCENT < whole / 10:
            percent = 100 * limit if limit <= 1 else limit
            return f"did you mean {percent:g}%, {amount(percent / 100 * whole, cost)}?"
    return ""
