"""Measure what each group of a network and each critic costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lctprune.measure.costs import (
    FlopCount,
    count_known_flops,
    count_on_the_way,
    count_parameters,
    saved_bytes,
    warn_of_unknown_operations,
)
from lctprune.network import LocalCriticNetwork


class GroupCosts(NamedTuple):
    """Costs of one layer group for one sample; those of the critic are 0 for the last group, which has none."""

    first: str  # name of the first module of which no other group has a part
    last: str  # name of the last such module
    output_shape: tuple[int, ...]  # without the batch
    flops: int | None  # None where an operation has no FLOP formula
    parameters: int
    activation_bytes: int  # kept in training for the backward pass
    critic_flops: int | None
    critic_parameters: int
    exit_flops: int | None  # of the groups up to this one and its critic; the last group's exit is the main network
    exit_parameters: int


def measure_groups(network: LocalCriticNetwork, example: Tensor) -> list[GroupCosts]:
    """Measure each group and its critic in evaluation mode.

    Warns:
        NetworkWarning: an operation has no FLOP formula, so that FLOPs are missing.
    """
    costs: list[GroupCosts] = []
    counts: list[FlopCount] = []
    parameters = 0
    x = example[:1].detach()
    leaves = [
        [name for name, module in group.named_modules() if not any(module.children())] for group in network.groups
    ]
    for index, group, critic in network.parts():
        elsewhere = [name for other, names in enumerate(leaves) if other != index for name in names]
        activation_bytes = saved_bytes(group, x)
        x, group_flops = count_on_the_way(group, x)
        critic_flops = FlopCount(0, ()) if critic is None else count_known_flops(critic, x)
        counts += [group_flops, critic_flops]
        flops = [count.total for count in [*counts[::2], critic_flops]]  # of the groups up to this one, and its critic
        parameters += count_parameters(group)
        critic_parameters = 0 if critic is None else count_parameters(critic)
        costs.append(
            GroupCosts(
                first=_outermost(leaves[index][0], elsewhere),
                last=_outermost(leaves[index][-1], elsewhere),
                output_shape=tuple(x.shape[1:]),
                flops=group_flops.total,
                parameters=count_parameters(group),
                activation_bytes=activation_bytes,
                critic_flops=critic_flops.total,
                critic_parameters=critic_parameters,
                exit_flops=None if None in flops else sum(each for each in flops if each is not None),
                exit_parameters=parameters + critic_parameters,
            )
        )
    warn_of_unknown_operations(counts, "the FLOPs of some groups are missing")
    return costs


def _outermost(name: str, elsewhere: Sequence[str]) -> str:
    """Return the outermost module around a module that contains none of the modules `elsewhere`."""
    parts = name.split(".")
    around = [".".join(parts[: count + 1]) for count in range(len(parts))]
    return next((path for path in around if not any(f"{other}.".startswith(f"{path}.") for other in elsewhere)), name)
