"""Find the command that adds a network to a run which fits a budget that none of its networks fits."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress

import torch

from lctprune.errors import BudgetError, LctpruneError, NetworkWarning
from lctprune.measure.candidates import Candidate
from lctprune.measure.misses import SMALLER
from lctprune.measure.selection import Limits, main_of
from lctprune.measure.unscored import unscored
from lctprune.workflows.added_critics import critics_to_add
from lctprune.workflows.densification import densified
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import DENSE, members_of
from lctprune.workflows.narrowing_targets import narrowest

SLOWEST = 10.0  # factor by which a latency may be too long for a remedy: calls take time however small a network is
ADDED = "densify or narrow may add one that fits"
OPTIONS = {"flops": "--budget-flops", "macs": "--budget-macs", "parameters": "--budget-params"}  # of `narrow`


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
        remedy = "give a larger budget of latency: no network that densify or narrow adds is so fast"
    elif "latency_ms" in limits:  # to measure latencies would take minutes
        ways = "narrow" if (loaded.run.path / DENSE).exists() else "densify or narrow"
        remedy = f"{ways} may add one that fits, or give a larger budget"
    elif loaded.epochs_done() < loaded.run.config.training.epochs:
        remedy = f"{ADDED}, once the run is trained to its end: {loaded.run.command('resume')}"
    elif words := _smaller(loaded, candidates, limits):
        remedy = f"this adds one that fits: {loaded.run.command(*words)}"
    elif not limits.keys() <= OPTIONS.keys():
        remedy = "densify adds none that fits; narrow may, under a budget of parameters"
    else:
        remedy = (
            "neither densify nor narrow adds one that fits; give a larger budget, or train a smaller network "
            "(`model_args`, `critic_width`, `groups`)"
        )
    return BudgetError(str(error).replace(SMALLER, remedy), error.nearest, error.misses)


def _smaller(loaded: LoadedRun, candidates: Sequence[Candidate], limits: Limits) -> list[str]:
    """Return the command that adds a network that fits, as words; none where no command does."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkWarning)
        with suppress(LctpruneError):
            if not (loaded.run.path / DENSE).exists() and _fits_densified(loaded, limits):
                return ["densify"]
        if limits.keys() <= OPTIONS.keys():
            given = [word for cost, limit in limits.items() for word in (OPTIONS[cost], _text(limit))]
            for member in _by_excess(loaded, candidates, limits):
                with suppress(LctpruneError):
                    if _fits_narrowed(loaded, member, limits):
                        return ["narrow", "--exit", str(member), *given]
    return []


def _fits_densified(loaded: LoadedRun, limits: Limits) -> bool:
    """Tell whether one of the networks fits that `densify` would add."""
    network = loaded.network()
    assert network.recipe is not None  # or it could not have been loaded
    example = network.recipe.example
    dense = densified(network, critics_to_add(network, example), seed=0).eval()
    exits = (dense.subnetwork(exit) for exit in range(len(dense.critics)))
    return any(limits.excess(unscored(each, example)) <= 1 for each in exits)


def _by_excess(loaded: LoadedRun, candidates: Sequence[Candidate], limits: Limits) -> list[int]:
    """Return the numbers of the run's own exits that may be narrowed: the nearest to the budget, and the main network.

    Of exits of which more goes, less is left: so the nearest comes first.
    """
    own = {member.number for member in members_of(loaded) if not member.origin}
    nearest = min((each for each in candidates if each.exit in own), key=limits.excess)
    return list(dict.fromkeys([nearest.exit, main_of(candidates).exit]))


def _fits_narrowed(loaded: LoadedRun, exit: int, limits: Limits) -> bool:
    """Tell whether an exit fits once it has lost as many channels as it can."""
    network = loaded.network()
    assert network.recipe is not None  # or it could not have been loaded
    example, subnetwork = network.recipe.example, network.subnetwork(exit).eval()
    least = narrowest(subnetwork, example, limits, str(exit))
    return least is not None and limits.excess(least) <= 1


def _text(limit: float) -> str:
    return f"{limit:.12g}" if float(f"{limit:.12g}") == limit else repr(limit)
