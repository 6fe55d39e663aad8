"""What is known of a compression before any training: what exits cost, and whether anything can fit the budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.errors import BudgetError, ConfigError, NetworkError
from lctprune.measure.candidates import Candidate, exit_name
from lctprune.measure.choice import select
from lctprune.measure.selection import Budget, Limits
from lctprune.measure.units import COSTS, amount
from lctprune.measure.unscored import unscored
from lctprune.network import LocalCriticNetwork
from lctprune.workflows.added_critics import critics_to_add
from lctprune.workflows.compression_plan import critics_cost, fraction_within
from lctprune.workflows.densification import densified
from lctprune.workflows.narrowing_targets import narrowest


class Costs(NamedTuple):
    """What is known of costs before training.

    Attributes:
        exits: cost of each exit, by its number; the last is the main network.
        limits: the budget in absolute units.
        fraction: largest fraction of the main network that the budget may leave.
    """

    exits: Mapping[int, Candidate]
    limits: Limits
    fraction: float

    @property
    def main(self) -> Candidate:
        """The cost of the main network."""
        return self.exits[len(self.exits) - 1]

    @property
    def has_latency(self) -> bool:
        """Whether latency is limited, and so must be measured."""
        return "latency_ms" in self.limits

    @classmethod
    def of(cls, network: LocalCriticNetwork, example: Tensor, budget: Budget) -> Costs:
        """Measure the exits of a network."""
        is_timed, count = budget.latency_ms is not None, len(network.groups)
        exits = {
            exit: dataclasses.replace(
                unscored(network.subnetwork(exit), example, has_latency=is_timed),
                exit=exit,
                name=exit_name(exit, count, network.cut_point_names),
            )
            for exit in range(count)
        }
        main = exits[count - 1]
        limits = budget.limits(main)
        return cls(exits, limits, fraction_within(limits, main))


def further_cost(network: LocalCriticNetwork, example: Tensor) -> float | None:
    """Compute the cost of a pass that trains further critics on a network; None where there can be none."""
    with suppress(NetworkError), torch.random.fork_rng(devices=[]):
        return critics_cost(densified(network, critics_to_add(network, example), seed=0), example)
    return None


def require_feasible(network: LocalCriticNetwork, example: Tensor, costs: Costs) -> None:
    """Refuse a budget that nothing can fit: no exit, and neither the main network nor the first exit when narrowed.

    Raises:
        BudgetError: nothing can fit; it names the nearest.
        ConfigError: the main network fits as it is.
    """
    if costs.limits.excess(costs.main) <= 1:
        known = " and ".join(amount(costs.main.cost(cost) or 0, cost) for cost in COSTS if cost in costs.limits)
        raise ConfigError(
            f"the network fits the budget as it is, so there is nothing to compress: it costs {known}; give less, such "
            "as 50%"
        )
    candidates = list(costs.exits.values())
    with suppress(BudgetError):
        select(candidates, costs.limits)
        return
    for exit in (len(costs.exits) - 1, 0):
        name = costs.exits[exit].name
        if least := narrowest(network.subnetwork(exit).eval(), example, costs.limits, name):
            candidates.append(dataclasses.replace(least, exit=exit, name=f"{name}, narrowed"))
    try:
        select(candidates, costs.limits)
    except BudgetError as error:
        nearest, _, remedy = str(error).rpartition("; ")
        if remedy.endswith("?"):
            raise
        text = f"{nearest}; nothing was trained"
        raise BudgetError(text, error.nearest, error.misses) from error
