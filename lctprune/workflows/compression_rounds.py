"""The candidates of a compression that are fine-tuned, round by round: which ones, and how each is begun."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from torch import Tensor

from lctprune.config.compression import CompressConfig
from lctprune.config.metric import METRIC_NAMES, SCORE_COLUMNS, is_lower_better
from lctprune.data.dataset import Data
from lctprune.measure.candidates import Candidate
from lctprune.measure.selection import Limits
from lctprune.measure.units import COSTS
from lctprune.measure.unscored import unscored
from lctprune.runs import Run
from lctprune.workflows.compression_costs import Costs
from lctprune.workflows.compression_plan import fraction_of, fraction_within, steps_of
from lctprune.workflows.finetuning import begin_finetuning
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import FINETUNED, NARROWED, Member, member_of, members_of
from lctprune.workflows.narrowing import begin_narrowing, described
from lctprune.workflows.narrowing_channels import Damages
from lctprune.workflows.narrowing_targets import target_of
from lctprune.workflows.session import Session
from lctprune.workflows.taught import Outputs


class Entrant(NamedTuple):
    """One candidate of a round.

    Attributes:
        exit: number of the candidate that it is made from.
        is_narrowed: whether channels are taken out of that; otherwise it is fine-tuned as it is.
        folder: directory of its run, within the run.
        fraction: its cost, as a fraction of the main network's.
        what: description for people.
        epochs: epochs of its training.
        part: part of the training split in each epoch.
        cost: cost of its training, in epochs of the main network's.
        limits: limits of an intermediate size, in absolute units; None for the budget.
        further: limits of the sizes between that and the budget, the largest first.
    """

    exit: int
    is_narrowed: bool
    folder: str
    fraction: float
    what: str
    epochs: int = 0
    part: float = 1.0
    cost: float = 0.0
    limits: dict[str, float] | None = None
    further: Sequence[dict[str, float]] = ()


def first_entrants(
    loaded: LoadedRun, costs: Costs, limits: Limits, count: int, dropped: Collection[int] = ()
) -> list[Entrant]:
    """Choose the candidates of the first round.

    These are the main network, narrowed; and in turns the best exits that are too large, narrowed, and those that fit.

    Args:
        loaded: run whose critics are trained.
        costs: costs of its exits.
        limits: the budget.
        count: number of candidates.
        dropped: numbers of exits that cannot be narrowed.
    """
    run, members = loaded.run, members_of(loaded)
    known = {member.number: _cost(member, costs, loaded) for member in members}
    ranked = sorted(members, key=lambda member: -_merit(member.run, member.exit))
    slug = target_of(loaded, None, limits).slug
    main = next(member for member in members if member.run is run and known[member.number] is costs.main)
    large, fitting = [], []
    for member in ranked:
        cost = known[member.number]
        if member is main or member.number in dropped:
            continue
        if limits.excess(cost) > 1:
            large.append(_narrowed(member, slug, min(costs.fraction, fraction_of(cost, costs.main))))
        else:
            fitting.append(_tuned(member, fraction_of(cost, costs.main)))
    chosen = [] if main.number in dropped else [_narrowed(main, slug, costs.fraction)]
    while len(chosen) < count and (large or fitting):
        chosen += [group.pop(0) for group in (large, fitting) if group]
    return chosen[:count]


def scored(loaded: LoadedRun, entrants: Sequence[Entrant]) -> list[Entrant]:
    """Return the candidates of a round as they may go on, the best on the validation split first."""
    found, run = [], loaded.run
    main = unscored(loaded.network(), _example(loaded))
    for member in members_of(loaded):
        entrant = next((each for each in entrants if run.path / each.folder == member.run.path), None)
        if entrant is not None:
            cost = unscored(loaded.network(member.run), _example(loaded))
            tuned = _tuned(member, fraction_of(cost, main))._replace(what=entrant.what)
            found.append((_merit(member.run, member.exit), tuned))
    return [entrant for _, entrant in sorted(found, key=lambda each: -each[0])]


def source_of(loaded: LoadedRun, rounds: Sequence[Sequence[Entrant]], entrant: Entrant) -> Entrant:
    """Return what a candidate of the round after `rounds` came from: as it was first narrowed, or fine-tuned."""
    folders = {member.number: member.run.path for member in members_of(loaded)}
    for earlier in reversed(rounds):
        folder = folders.get(entrant.exit)
        entrant = next((each for each in earlier if loaded.run.path / each.folder == folder), entrant)
    return entrant


def sizes_to(loaded: LoadedRun, source: Entrant, costs: Costs, limits: Limits, config: CompressConfig) -> list[Limits]:
    """Return the sizes to which a candidate is narrowed one after the other; the last is the budget.

    Between what the candidate costs and the budget they lie at equal ratios.
    """
    cost = _cost(member_of(loaded, source.exit), costs, loaded)
    whole = {name: max(limits[name], cost.cost(name) or 0) for name in COSTS if name in limits}
    steps = steps_of(config, min(limits[name] / size for name, size in whole.items()))
    return [
        Limits({name: size ** (1 - step / steps) * limits[name] ** (step / steps) for name, size in whole.items()})
        for step in range(1, steps)
    ] + [limits]


def first_step(loaded: LoadedRun, source: Entrant, costs: Costs, sizes: Sequence[Limits]) -> Entrant:
    """Return the first step of a candidate that is narrowed to the budget by several sizes.

    Args:
        loaded: run of the compression.
        source: the candidate, as it would be narrowed in one step.
        costs: costs of the exits.
        sizes: what it is narrowed to, one after the other; the last is the budget.
    """
    return _step_of(loaded, member_of(loaded, source.exit), costs, sizes)


def step_after(loaded: LoadedRun, before: Entrant, costs: Costs, limits: Limits) -> Entrant:
    """Return the step after another one, made from the network that this left; the budget is `limits`."""
    member = next(each for each in members_of(loaded) if each.run.path == loaded.run.path / before.folder)
    return _step_of(loaded, member, costs, [*map(Limits, before.further), limits])


def begin_entrant(
    run: Run,
    entrant: Entrant,
    limits: Limits,
    data: Data,
    config: CompressConfig,
    outputs: Outputs,
    *,
    resume: bool,
    damages: Damages | None = None,
) -> Session:
    """Begin, or resume, the training of a candidate.

    Args:
        run: run of the compression.
        entrant: candidate.
        limits: the budget.
        data: data to train on.
        config: settings.
        outputs: the teacher's outputs that are known, to which further ones are added.
        resume: whether the training was begun before.
        damages: what mild cuts of it destroy, if that is known.
    """
    settings = {
        "data": data,
        "epochs": entrant.epochs,
        "lr": None if resume else config.lr,
        "distill": config.distill,
        "views": config.views,
        "outputs": outputs,
        "resume": resume,
        "device": run.config.training.device,
        "batch_norm": "train",
    }
    if entrant.is_narrowed:
        if entrant.limits is not None:
            limits = Limits(entrant.limits)
        importance = config.importance
        return begin_narrowing(run, entrant.exit, budget=limits, importance=importance, damages=damages, **settings)  # type: ignore[arg-type]
    return begin_finetuning(run, entrant.exit, **settings)  # type: ignore[arg-type]


def _step_of(loaded: LoadedRun, member: Member, costs: Costs, sizes: Sequence[Limits]) -> Entrant:
    target = target_of(loaded, None, sizes[0])
    return _narrowed(member, target.slug, fraction_within(sizes[0], costs.main))._replace(
        what=described(member.name, target),
        limits=dict(sizes[0]) if len(sizes) > 1 else None,
        further=[dict(size) for size in sizes[1:-1]],
    )


def _narrowed(member: Member, slug: str, fraction: float) -> Entrant:
    folder = f"{NARROWED}/exit{member.number}-{slug}"
    return Entrant(member.number, True, folder, fraction, f"{member.name}, narrowed")


def _tuned(member: Member, fraction: float) -> Entrant:
    return Entrant(member.number, False, f"{FINETUNED}/exit{member.number}", fraction, member.name)


def _cost(member: Member, costs: Costs, loaded: LoadedRun) -> Candidate:
    if member.run is loaded.run:
        return costs.exits[member.exit]
    network = loaded.network(member.run).subnetwork(member.exit)
    return unscored(network, _example(loaded), has_latency=costs.has_latency)


def _example(loaded: LoadedRun) -> Tensor:
    recipe = loaded.network().recipe
    assert recipe is not None  # or it could not have been loaded
    return recipe.example


def _merit(run: Run, exit: int) -> float:
    """Return what candidates are ordered by, the higher the better: the metric after the last epoch of a run."""
    metric = METRIC_NAMES[run.config.training.metric]
    text = run.metrics[-1].get(f"exit{exit}_{SCORE_COLUMNS[metric]}", "")
    value = float(text or "nan")
    if math.isnan(value):
        return -math.inf
    return -value if is_lower_better(metric) else value
