"""The plan of a compression: what each part of the training costs, and how much of it fits its share.

The unit is an epoch of the main network's own training: three forward passes of it per sample, as a backward pass
counts as two. A frozen network and a teacher count one forward pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from lctprune.config.compression import CompressConfig
from lctprune.measure.candidates import Candidate
from lctprune.measure.group_costs import measure_groups
from lctprune.measure.selection import Limits
from lctprune.measure.units import COSTS
from lctprune.network import LocalCriticNetwork

MOST_PART = 1.0  # of the training split in an epoch
STEP = 0.6  # what a step of narrowing leaves, about
SEARCH_STEPS = 300  # of training that tell candidates apart: after fewer, a cut in depth looks better than it ends


class Passes(NamedTuple):
    """How long something is trained: `epochs` epochs, each over a `part` of the training split, and what that costs."""

    epochs: int
    part: float
    cost: float

    @property
    def passes(self) -> float:
        """The number of passes over the training split."""
        return self.epochs * self.part


class Planned(NamedTuple):
    """One line of a plan.

    Attributes:
        stage: name of the stage.
        what: what is trained, for people.
        networks: number of networks that are trained.
        passes: passes over the training split, of each.
        cost: cost of all of them, in epochs of the main network's training.
    """

    stage: str
    what: str
    networks: int
    passes: float
    cost: float

    @property
    def is_tuning(self) -> bool:
        """Whether candidates are fine-tuned, after all critics."""
        return self.stage.startswith(("round", "step"))


def passes_for(cost: float, *, per_pass: float) -> Passes:
    """Return the passes over the training split that cost as much, in epochs of at most one pass."""
    passes = cost / per_pass
    epochs = max(1, math.ceil(passes - 1e-9))
    return Passes(epochs, min(MOST_PART, passes / epochs), cost)


def tuning_passes(
    cost: float, fractions: Sequence[float], config: CompressConfig, *, known: Sequence[float] = ()
) -> Passes:
    """Return the passes of fine-tuning, for each of some networks, that together cost as much.

    The teacher computes its outputs for the first `views` passes once, for all of the networks.

    Args:
        cost: cost of all of it, in epochs of the main network's training.
        fractions: cost of each network, as a fraction of the main network's.
        config: settings, which say whether there is a teacher.
        known: parts of the first passes for which the teacher computed its outputs before.
    """
    teacher = tuning_cost(0, config)
    if not config.views or not teacher:
        return passes_for(cost, per_pass=sum(fractions) + teacher * len(fractions))

    known = [*known, *itertools.repeat(0.0, config.views - len(known))]

    def cost_of(epochs: int, part: float) -> float:
        new = sum(max(0.0, part - before) for before in known[:epochs])
        return sum(fractions) * epochs * part + teacher * new

    epochs = next(count for count in itertools.count(1) if cost_of(count, MOST_PART) >= cost - 1e-9)
    low, high = 0.0, MOST_PART
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if cost_of(epochs, middle) <= cost else (low, middle)
    return Passes(epochs, high, cost)


def parts_known(trained: Iterable[Passes], views: int) -> list[float]:
    """Return the part of each of the first `views` passes for which a teacher's outputs are known after trainings."""
    known = [0.0] * views
    for passes in trained:
        for view in range(min(views, passes.epochs)):
            known[view] = max(known[view], passes.part)
    return known


def critics_cost(network: LocalCriticNetwork, example: Tensor) -> float:
    """Return what a pass costs that trains all critics on the frozen network, in one forward pass through that."""
    costs = measure_groups(network, example)
    has_flops = all(cost.flops is not None and cost.critic_flops is not None for cost in costs)
    groups = sum((cost.flops or 0) if has_flops else cost.parameters for cost in costs)
    critics = sum((cost.critic_flops or 0) if has_flops else cost.critic_parameters for cost in costs)
    return (groups + 3 * critics) / (3 * groups)


def tuning_cost(fraction: float, config: CompressConfig) -> float:
    """Return what a pass of fine-tuning costs.

    Args:
        fraction: cost of the network, as a fraction of the main network's.
        config: settings, which say whether there is a teacher.
    """
    return fraction + (1 / 3 if config.distill else 0)


def fraction_of(candidate: Candidate, main: Candidate) -> float:
    """Return the cost of a network as a fraction of the main network's: FLOPs, or parameters where they are unknown."""
    if candidate.flops is None or not main.flops:
        return candidate.parameters / main.parameters
    return candidate.flops / main.flops


def fraction_within(limits: Limits, main: Candidate) -> float:
    """Return the largest fraction of the main network that a budget may leave, by what it limits."""
    fractions = [limits[cost] / whole for cost in COSTS if cost in limits and (whole := main.cost(cost))]
    return min([1.0, *fractions])


def entrants_of(config: CompressConfig) -> list[int]:
    """Return the number of candidates in each round of fine-tuning: halved from round to round, 1 in the last."""
    rounds = len(config.divided) - 2
    return [1 if index == rounds - 1 else max(1, -(-config.candidates // 2**index)) for index in range(rounds)]


def steps_of(config: CompressConfig, fraction: float) -> int:
    """Return the number of steps in which a network is narrowed to a fraction of its cost."""
    if config.steps is not None:
        return config.steps
    return max(1, round(math.log(fraction) / math.log(STEP))) if fraction > 0 else 1


def tuned_passes(plan: Sequence[Planned]) -> float:
    """Return the passes over the training split in which the network that is chosen is fine-tuned."""
    return sum(line.passes for line in plan if line.is_tuning)


def searched(plan: Sequence[Planned]) -> list[int]:
    """Return the number of candidates in each round of a plan before the last one."""
    rounds = [line.networks for line in plan if line.stage.startswith("round")]
    return rounds if any(line.stage.startswith("step") for line in plan) else rounds[:-1]


def planned(
    config: CompressConfig, *, critics: float, further: float | None, fraction: float, pass_steps: float
) -> list[Planned]:
    """Write the plan.

    Args:
        config: settings.
        critics: cost of a pass that trains the critics.
        further: cost of a pass that trains the further critics; None where there are none.
        fraction: cost of the networks that are fine-tuned, as a fraction of the main network's.
        pass_steps: steps of a pass over the training split.
    """
    shares: Sequence[float] = config.divided
    cost = shares[0] * config.epochs
    lines = [_line("critics", "critics on the frozen network", 1, cost / critics, cost)]
    if further is not None:
        cost = shares[1] * config.epochs
        lines.append(_line("densify", "further critics, of other depths and widths", 1, cost / further, cost))
    trained: list[Passes] = []

    def add(stage: str, what: str, count: int, cost: float, fraction: float) -> None:
        trained.append(tuning_passes(cost, count * [fraction], config, known=parts_known(trained, config.views)))
        lines.append(_line(stage, what, count, trained[-1].passes, cost))

    *counts, _ = entrants_of(config)
    for index, (count, share) in enumerate(zip(counts, shares[2:-1], strict=True)):
        what = "candidates, narrowed and fine-tuned" if index == 0 else "the better half, fine-tuned further"
        add(f"round {index + 1}", what, count, share * config.epochs, fraction)
    if config.shares is None and pass_steps * sum(passes.passes for passes in trained) < SEARCH_STEPS:
        lines, trained, counts = lines[:1], [], []  # further critics would serve the search alone
    left = config.epochs - sum(line.cost for line in lines)
    steps = steps_of(config, fraction)
    if steps == 1:
        what = "the best, fine-tuned further" if counts else "the network, narrowed and fine-tuned"
        add(f"round {len(counts) + 1}", what, 1, left, fraction)
        return lines
    for step in range(1, steps + 1):
        size = fraction ** (step / steps)
        what = f"the {'best' if counts else 'network'}, narrowed to {size:.0%} and fine-tuned"
        add(f"step {step}", what, 1, left / steps, size)
    return lines


def _line(stage: str, what: str, networks: int, passes: float, cost: float) -> Planned:
    return Planned(stage, what, networks, round(passes, 4), round(cost, 4))


def plan_record(plan: Sequence[Planned]) -> list[dict[str, Any]]:
    """Return the plan as plain JSON values."""
    return [line._asdict() for line in plan]
