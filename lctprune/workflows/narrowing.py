"""Narrow one exit of a run: take out channels until it fits, then train it on, with the main network as its teacher."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from lctprune.data.dataset import Data
from lctprune.errors import BudgetError
from lctprune.measure.misses import needed, probably_meant
from lctprune.measure.selection import Budget, Limits
from lctprune.measure.unscored import unscored
from lctprune.network import LocalCriticNetwork
from lctprune.pruning.dependencies import prunable
from lctprune.pruning.importance import AUTO, Choice, criteria_of, importance_of
from lctprune.pruning.record import apply_record
from lctprune.runs import Run, as_run
from lctprune.workflows.loading import LoadedRun, recorded_training, require_recipe
from lctprune.workflows.members import NARROWED, Member, member_named, member_of
from lctprune.workflows.narrowing_channels import Damages, Ranking
from lctprune.workflows.narrowing_targets import Fitting, Target, limits_for, target_of
from lctprune.workflows.session import Session
from lctprune.workflows.taught import alone, begin_taught, load_alone


def narrow(
    run: str | Path | Run,
    exit: int | None = None,
    *,
    keep: float | str | None = None,
    budget: Budget | Limits | None = None,
    importance: Choice = AUTO,
    data: Data | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    distill: float | None = None,
    resume: bool = False,
) -> Run:
    """Narrow one exit of a run: take the least important channels out, then fine-tune it as `finetune` does.

    Torch-Pruning (Fang et al. 2023, arXiv 2301.12900) finds the layers that depend on each other and ranks channels.
    The run stays as it is. The narrowed exit is kept in a run of its own, `narrowed/exitK-TARGET/` below the given run,
    whose candidates then include it; its config.json says which channels each layer kept.

    Args:
        run: run with a finished epoch, or its directory.
        exit: number of the candidate, by default the main network's.
        keep: FLOPs to keep, as a fraction of that network's: 0.7, or "70%".
        budget: limits to fit, in place of `keep`; percentages are of the main network.
        importance: criterion by which channels are ranked, see `lctprune narrow --help`; by default that of magnitude
            and taylor whose mild cut leaves the lower loss on training samples.
        data: data to train on, with the default loss, as in `finetune`.
        epochs: passes over the training split, by default 1.
        lr: peak learning rate; by default a fifth of the run's.
        distill: weight of the distance to the main network's outputs in the loss, by default 0.5.
        resume: whether to continue from the last whole epoch, by default with the settings of the start.

    Returns:
        The added run.

    Raises:
        ConfigError: a value is out of range, the exit fits already, or Torch-Pruning is not installed.
        NetworkError: there is no such exit, or Torch-Pruning cannot narrow it.
        BudgetError: the exit does not fit even with the fewest channels.
        RunError: this was done already, or begun with other settings; or the run cannot be loaded; or `data` has other
            classes, words, columns or normalisation.
    """
    session = begin_narrowing(
        as_run(run),
        exit,
        keep=keep,
        budget=budget,
        importance=importance,
        data=data,
        epochs=epochs,
        lr=lr,
        distill=distill,
        resume=resume,
    )
    for _ in session.steps():
        pass
    return session.opened


def begin_narrowing(
    run: Run,
    exit: int | None = None,
    *,
    keep: float | str | None = None,
    budget: Budget | Limits | None = None,
    importance: Choice = AUTO,
    data: Data | None = None,
    resume: bool = False,
    damages: Damages | None = None,
    **training: Any,
) -> Session:
    """Take channels out of one exit and open the added run; `damages` are those of `mild_cuts`. See `narrow`."""
    for criterion in criteria_of(importance):  # before anything is loaded
        importance_of(criterion)
    loaded = LoadedRun(run)
    target = target_of(loaded, keep, budget)
    member = member_named(loaded, None) if exit is None else member_of(loaded, exit)
    description = described(member.name, target)

    def build(resumed: Run | None, data: Data) -> LocalCriticNetwork:
        if resumed is not None:
            return _as_recorded(loaded, member, resumed)
        return _narrowed(loaded, member, target, importance, data, damages)

    folder = run.path / NARROWED / f"exit{member.number}-{target.slug}"
    return begin_taught(
        loaded, folder, description, build, data=data, resume=resume, **{"batch_norm": "train", **training}
    )


def mild_cuts(loaded: LoadedRun, number: int, importance: Choice, data: Data) -> Damages:
    """Return how much of what an exit knows a mild cut destroys, before training; see `Ranking.damages`."""
    member = member_of(loaded, number)
    _, network, ranking = _ranking(loaded, member, data)
    name = f"{member.name} of {member.run.path}"
    kept_whole = prunable(network.groups[0], data.example[:1], name).kept_whole
    return ranking.damages(importance, lambda _: False, kept_whole=kept_whole, name=name)


def _ranking(loaded: LoadedRun, member: Member, data: Data) -> tuple[LocalCriticNetwork, LocalCriticNetwork, Ranking]:
    """Load the network that holds a member, the member alone, which shares its modules, and what ranks its channels."""
    whole = loaded.new_network(member.run)
    network = alone(whole, member)
    return whole, network, Ranking(whole, network, member, data, recorded_training(loaded.run))


def described(name: str, target: Target) -> str:
    """Describe how a narrowed network came to be: `X, narrowed to 50M FLOPs`, or `X, narrowed to 30M FLOPs in 2 steps`.

    Args:
        name: name of the network that is narrowed, which may have been before.
        target: how small it is to become.
    """
    again = re.fullmatch(r"(.+), narrowed to [^,]+?(?: in (\d+) steps)?(?: \(exit \d+\))?", name)
    if again is None or target.keep is not None:  # a fraction of what it was narrowed to says nothing alone
        return f"{name}, narrowed to {target.text}"
    return f"{again[1]}, narrowed to {target.text} in {int(again[2] or 1) + 1} steps"


def resume_narrowing(run: Run, folder: Path, *, data: Data | None = None) -> Session:
    """Go on with an exit of a run that was narrowed in a folder below it, by its settings."""
    loaded = LoadedRun(run)
    member = member_of(loaded, int(folder.name.removeprefix("exit").partition("-")[0]))

    def build(resumed: Run | None, _: Data) -> LocalCriticNetwork:
        assert resumed is not None  # as it is resumed
        return _as_recorded(loaded, member, resumed)

    return begin_taught(loaded, folder, "", build, data=data, resume=True)


def _as_recorded(loaded: LoadedRun, member: Member, resumed: Run) -> LocalCriticNetwork:
    """Take out of a member what was taken out before the training that is resumed."""
    network, records = load_alone(loaded, member), require_recipe(resumed).pruned or ()
    assert network.recipe is not None  # or it could not have been loaded
    for record in records[len(network.recipe.pruned or ()) :]:
        apply_record(network, record)
    network.recipe = dataclasses.replace(network.recipe, pruned=records)
    return network


def _narrowed(
    loaded: LoadedRun, member: Member, target: Target, importance: Choice, data: Data, damages: Damages | None
) -> LocalCriticNetwork:
    """Load a member and take channels out until it fits."""
    whole, network, ranking = _ranking(loaded, member, data)
    example, name = data.example[:1], f"{member.name} of {member.run.path}"
    limits = limits_for(network, whole, example, target, name)
    found = prunable(network.groups[0], example, name)
    fits = Fitting(limits, example)
    record = ranking.take_out(importance, fits, kept_whole=found.kept_whole, name=name, damages=damages)
    if record is None:
        remedy = probably_meant(limits, unscored(whole, example)) or f"it gets to {_reachable(network, fits, target)}"
        raise BudgetError(
            f"{name} does not get to {target.text}: {fits.least} with the fewest channels that Torch-Pruning leaves"
            f"{found.reason and f' ({found.reason})'}; {remedy}"
        )
    assert network.recipe is not None  # or it could not have been loaded
    network.recipe = dataclasses.replace(network.recipe, pruned=(*(network.recipe.pruned or ()), record))
    return network


def _reachable(network: LocalCriticNetwork, fits: Fitting, target: Target) -> str:
    """Write what a network that was narrowed as far as it goes does keep, so that it can be given."""
    assert fits.cost is not None  # it was asked before
    if target.keep is None:
        return needed(fits.cost, target.limits) or "a larger budget"
    whole = unscored(network, fits.example).flops
    assert whole  # or no part of them could have been asked for
    return f"`keep={math.ceil(1000 * (fits.cost.flops or 0) / whole) / 10:g}%`"
