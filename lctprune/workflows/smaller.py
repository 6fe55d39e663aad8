"""Find the command that adds a network to a run which fits a budget that none of its networks fits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import suppress

import torch

from lctprune.errors import BudgetError, LctpruneError, NetworkWarning
from lctprune.measure.candidates import Candidate, Cost
from lctprune.measure.misses import SMALLER
from lctprune.measure.selection import Limits, main_of
from lctprune.measure.units import amount, budget_options, limit_text
from lctprune.measure.unscored import unscored
from lctprune.workflows.added_critics import AddedCritic, critics_to_add
from lctprune.workflows.densification import cost_of_pass, cost_text, default_epochs, densified
from lctprune.workflows.loading import LoadedRun, recorded_training
from lctprune.workflows.members import DENSE, members_of
from lctprune.workflows.narrowing_targets import narrowest

NEARLY = 1.5  # times a limit; a network above that is no remedy
SLOWEST = 10.0  # factor by which a latency may be too long for a remedy: calls take time however small a network is
ADDED = "densify or narrow may add one that fits"
COSTS: tuple[Cost, ...] = ("flops", "macs", "parameters")  # by whose limits `narrow` is known to help


def with_remedy(error: BudgetError, loaded: LoadedRun, candidates: Sequence[Candidate], limits: Limits) -> BudgetError:
    """Return the error of a budget that nothing fits, with the command that helps, where one does.

    Costs decide: those of the networks that `densify` would add, and else how far an exit can be narrowed.

    Args:
        error: error of `select`.
        loaded: the run.
        candidates: its candidates.
        limits: the budget.
    """
    if SMALLER not in str(error):
        return error
    if error.misses.get("latency_ms", 0) > SLOWEST:
        remedy = "no network that densify or narrow adds is so fast"
    elif "latency_ms" in limits:  # to measure latencies would take minutes
        ways = "narrow" if (loaded.run.path / DENSE).exists() else "densify or narrow"
        remedy = f"{ways} may add one that fits"
    elif loaded.epochs_done() < loaded.run.config.training.epochs:
        remedy = f"{ADDED}, once the run is trained to its end: {loaded.run.command('resume')}"
    else:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", NetworkWarning)
            remedy = _by_costs(loaded, candidates, limits)
    return BudgetError(str(error).replace(SMALLER, remedy), error.nearest, error.misses)


def _by_costs(loaded: LoadedRun, candidates: Sequence[Candidate], limits: Limits) -> str:
    """Name the command that adds a network that fits, or else the one that adds the smallest."""
    with suppress(LctpruneError):
        if not (loaded.run.path / DENSE).exists() and (added := _fitting_when_densified(loaded, limits)):
            cost = cost_text(loaded.run, _densifying_cost(loaded, added))
            return (
                f"this adds one that fits, by training {len(added)} critics at {cost}: {loaded.run.command('densify')}"
            )
    if not limits.keys() <= set(COSTS):
        return "densify adds none that fits; narrow may, under a budget of parameters"
    found: list[tuple[int, Candidate]] = []
    for exit in _by_excess(loaded, candidates, limits):
        with suppress(LctpruneError):
            if (least := _narrowest(loaded, exit, limits)) is None:
                continue
            if limits.excess(least) <= 1:
                return f"this adds one that fits: {_narrow(loaded, exit, limits, least)}"
            found.append((exit, least))
    return f"neither densify nor narrow adds one that fits{_smallest(loaded, candidates, limits, found)}"


def _smallest(
    loaded: LoadedRun, candidates: Sequence[Candidate], limits: Limits, found: Sequence[tuple[int, Candidate]]
) -> str:
    """Name the command that adds the smallest network where that nearly fits, or how small it is; then what is left."""
    other = "train a narrower network (`model_args`, `critic_width`, `groups`)"
    smaller = [each for each in found if limits.excess(each[1]) < min(map(limits.excess, candidates))]
    if not smaller:
        return f"; {other}"
    exit, least = min(smaller, key=lambda each: limits.excess(each[1]))
    if limits.excess(least) <= NEARLY:
        return f"; this adds the smallest that narrow can make: {_narrow(loaded, exit, limits, least)}; or {other}"
    reached = " and ".join(amount(least.cost(cost) or 0, cost) for cost in limits.misses(least))
    return f", and narrow gets to {reached} at the smallest; {other}"


def _narrow(loaded: LoadedRun, exit: int, limits: Limits, least: Candidate) -> str:
    """Return the command that narrows an exit to limits, or where they are too low for it to what it does get to."""
    missed = limits.misses(least)
    given: dict[Cost, float | str] = {
        cost: limit_text(least.cost(cost) or 0, cost) if cost in missed else limits[cost]
        for cost in COSTS
        if cost in limits
    }
    return loaded.run.command("narrow", "--exit", str(exit), *budget_options(given))


def _fitting_when_densified(loaded: LoadedRun, limits: Limits) -> list[AddedCritic]:
    """Return the critics that `densify` would add, if one of their networks fits; else none."""
    network = loaded.network()
    assert network.recipe is not None  # or it could not have been loaded
    example = network.recipe.example
    added = critics_to_add(network, example)
    if limits.keys() <= {"flops", "macs"} and not any(each.cut.unknown for each in added):
        most = min(limits.get("flops", math.inf), 2 * limits.get("macs", math.inf))
        return added if any(each.flops <= most for each in added) else []
    dense = densified(network, added, seed=0).eval()
    exits = (dense.subnetwork(exit) for exit in range(len(dense.critics)))
    return added if any(limits.excess(unscored(each, example)) <= 1 for each in exits) else []


def _densifying_cost(loaded: LoadedRun, added: Sequence[AddedCritic]) -> float | None:
    """Compute what it costs to train critics as `densify` does, in epochs of the run's own training."""
    network, training = loaded.network(), recorded_training(loaded.run)
    assert network.recipe is not None  # or it could not have been loaded
    cost = cost_of_pass(network, densified(network, added, seed=0), network.recipe.example, training)
    return None if cost is None else cost * default_epochs(cost, training)


def _by_excess(loaded: LoadedRun, candidates: Sequence[Candidate], limits: Limits) -> list[int]:
    """Return the numbers of the run's own exits that may be narrowed: the nearest to the budget, and the main network.

    Of exits of which more goes, less is left: so the nearest comes first.
    """
    own = {member.number for member in members_of(loaded) if not member.origin}
    nearest = min((each for each in candidates if each.exit in own), key=limits.excess)
    return list(dict.fromkeys([nearest.exit, main_of(candidates).exit]))


def _narrowest(loaded: LoadedRun, exit: int, limits: Limits) -> Candidate | None:
    """Return what an exit costs once it has lost as many channels as it can."""
    network = loaded.network()
    assert network.recipe is not None  # or it could not have been loaded
    return narrowest(network.subnetwork(exit).eval(), network.recipe.example, limits, str(exit))
