"""How small an exit is to become: what was asked for in absolute units, and whether a network keeps it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from lctprune.errors import ConfigError, NetworkError
from lctprune.measure.candidates import Candidate
from lctprune.measure.selection import Budget, Limits, parse_limit
from lctprune.measure.units import COSTS, amount
from lctprune.measure.unscored import unscored
from lctprune.pruning.dependencies import explained, prunable
from lctprune.pruning.engine import fewest
from lctprune.pruning.importance import importance_of
from lctprune.runs import Run
from lctprune.workflows.loading import LoadedRun

LATENCY_MARGIN = 0.95  # of a limit of latency, which is measured again afterwards


class Target(NamedTuple):
    """How small a network is to become.

    Attributes:
        text: description for people.
        slug: part of the folder's name.
        keep: fraction of the network's own FLOPs; None where there are limits.
        limits: limits in absolute units.
    """

    text: str
    slug: str
    keep: float | None
    limits: Limits


def require_target(keep: float | str | None, budget: Budget | Limits | None) -> None:
    """Refuse what is not exactly one of the two, or out of its range, before anything is loaded.

    Raises:
        ConfigError: it is.
    """
    if (keep is None) == (budget is None):
        raise ConfigError(
            "to narrow, give the FLOPs to keep (`keep=50%`), or a budget in its place (`Budget(flops=...)`)"
        )
    if budget is None:
        _fraction(keep)
    elif budget in (Budget(), Limits({})):
        raise ConfigError("the budget has no limit; give one, such as `Budget(flops='50%')`")


def target_of(run: Run | LoadedRun, keep: float | str | None, budget: Budget | Limits | None) -> Target:
    """Parse what was asked for; percentages of a budget are of the run's main network.

    Raises:
        ConfigError: it is not exactly one of the two, or a value is out of range.
    """
    require_target(keep, budget)
    if budget is None:
        fraction = _fraction(keep)
        return Target(f"{100 * fraction:.4g}% of its FLOPs", f"keep{fraction:.6g}", fraction, Limits({}))
    limits = budget if isinstance(budget, Limits) else budget.limits(_costs_of_main(LoadedRun.of(run), budget))
    text = " and ".join(amount(limit, cost) for cost, limit in limits.items())
    return Target(text, "-".join(f"{cost}{limit:.12g}" for cost, limit in limits.items()), None, limits)


def _fraction(keep: float | str | None) -> float:
    """Parse the fraction of FLOPs to keep.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    try:
        value = float(parse_limit(keep or 0, name="keep")[0])
    except ConfigError:
        value = 0.0
    if not 0 < value < 1:
        raise ConfigError(f"keep is {keep!r}; it must be more than 0 and less than 100% (70% or 0.7)")
    return value


def _costs_of_main(loaded: LoadedRun, budget: Budget) -> Candidate:
    """Measure what the main network costs, as far as percentages of the budget need it."""
    network = loaded.network()
    assert network.recipe is not None  # or it could not have been loaded
    is_timed = str(budget.latency_ms).endswith("%")
    return unscored(network, network.recipe.example, has_latency=is_timed)


def limits_for(network: nn.Module, whole: nn.Module, example: Tensor, target: Target, name: str) -> Limits:
    """Return the limits in absolute units, if the network does not keep them already.

    Args:
        network: network that is to be narrowed.
        whole: main network of its run.
        example: input, [batch, ...].
        target: what was asked for.
        name: name of the network, for messages.

    Raises:
        ConfigError: it keeps them, or its FLOPs are not known.
    """
    cost = unscored(network, example, has_latency="latency_ms" in target.limits)
    limits = target.limits
    if target.keep is not None:
        if cost.flops is None:
            raise ConfigError(
                f"the FLOPs of {name} are not known, of which {target.keep:.0%} were to be kept; give a budget of "
                "parameters or latency (`Budget(parameters='60%')`)"
            )
        limits = Limits({"flops": target.keep * cost.flops})
    if limits.excess(cost) <= 1:
        ways = ["`keep=50%` halves its FLOPs"] if cost.flops else []
        if limits.excess(unscored(whole, example, has_latency="latency_ms" in limits)) > 1:
            ways.append("the main network costs more, and can be narrowed to that")
        raise ConfigError(f"{name} fits {target.text} as it is{''.join(f'; {way}' for way in ways)}")
    return limits


class Fitting:
    """Tells whether a network keeps limits, and remembers what the last one cost: `least`, for people, and `cost`."""

    def __init__(self, limits: Limits, example: Tensor) -> None:
        timed = {cost: limit * LATENCY_MARGIN for cost, limit in limits.items() if cost == "latency_ms"}
        self._counted = Limits({cost: limit for cost, limit in limits.items() if cost not in timed})
        self._timed, self.example = Limits(timed), example
        self.least = ""
        self.cost: Candidate | None = None

    def __call__(self, network: nn.Module) -> bool:
        """Measure a network, latency only if it keeps all other limits."""
        self.cost = cost = unscored(network, self.example)
        self.least = ", ".join(amount(cost.cost(each) or 0, each) for each in COSTS if each in self._counted)
        if self._counted.excess(cost) > 1 or not self._timed:
            return self._counted.excess(cost) <= 1
        self.cost = cost = unscored(network, self.example, has_latency=True)
        self.least = amount(cost.latency_ms or 0, "latency_ms")
        return self._timed.excess(cost) <= 1


def narrowest(network: nn.Module, example: Tensor, limits: Limits, name: str) -> Candidate | None:
    """Measure what is left of a network where it is narrowed as far as that goes: no limit below that can be kept.

    Args:
        network: network on the CPU, in evaluation mode; it is not changed.
        example: input, [batch, ...].
        limits: limits in absolute units; without one of latency, that is not measured.
        name: name of the network, for messages.

    Returns:
        Its costs; None where it cannot be narrowed.
    """
    try:
        kept_whole = prunable(network, example[:1], name).kept_whole
        with explained(name):
            left = fewest(network, example[:1], importance_of("magnitude"), kept_whole=kept_whole)
    except NetworkError:
        return None
    return unscored(left, example, has_latency="latency_ms" in limits)
