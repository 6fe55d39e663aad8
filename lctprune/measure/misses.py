"""Say by how much every candidate misses a budget, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lctprune.errors import BudgetError
from lctprune.measure.candidates import Candidate, left_out
from lctprune.measure.units import amount, budget_text, excess_text

if TYPE_CHECKING:
    from lctprune.measure.selection import Limits

# a command line finds out which of them does
SMALLER = "to a run of a network that goes by a name, densify or narrow may add one that fits"
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
    details = " and ".join(excess_text(nearest.cost(cost) or 0, limits[cost], cost) for cost in misses)
    return BudgetError(
        f"no candidate fits; the nearest is {nearest.name}: {details}{unknown and f' ({unknown})'}; "
        f"{probably_meant(limits, main, nearest) or f'with {needed(nearest, limits)} it fits; {SMALLER}'}",
        nearest,
        {str(cost): factor for cost, factor in misses.items()},
    )


def needed(candidate: Candidate, limits: Limits) -> str:
    """Write the limits that a candidate fits in place of those that it misses; all others may stay."""
    missed = {cost: candidate.cost(cost) for cost in limits.misses(candidate)}
    return budget_text({cost: value for cost, value in missed.items() if value is not None})


def probably_meant(limits: Limits, main: Candidate, nearest: Candidate | None = None) -> str:
    """Ask whether a limit was meant in percent, which is too small for any network; else "".

    Args:
        limits: budget in absolute units.
        main: the main network.
        nearest: a network that has to fit then, if there is one.
    """
    for cost in limits.misses(main).keys() - limits.percentages:
        limit, whole = limits[cost], main.cost(cost)
        if cost != "latency_ms" and whole and limit <= PERCENT < whole / 10:
            percent = 100 * limit if limit <= 1 else limit
            if nearest is None or (nearest.cost(cost) or 0) <= percent / 100 * whole:
                return f"did you mean {percent:g}%, {amount(percent / 100 * whole, cost)}?"
    return ""
