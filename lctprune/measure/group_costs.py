"""What each group of a network and each critic costs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.measure.costs import count_flops, count_parameters, saved_bytes
from lctprune.network import LocalCriticNetwork
from lctprune.utils.modules import evaluation_mode


class GroupCosts(NamedTuple):
    """What one layer group of a network is and costs, for one sample; of the last group, the critic's are 0."""

    first: str  # name of the first module of which no other group has a part
    last: str  # and of the last
    output_shape: tuple[int, ...]  # without the batch
    flops: int
    parameters: int
    activation_bytes: int  # that training keeps for the backward pass
    critic_flops: int
    critic_parameters: int


def group_costs(network: LocalCriticNetwork, example: Tensor) -> list[GroupCosts]:
    """Costs of each group and its critic, from one run in evaluation mode.

    Raises:
        UnknownOperationError: the network uses an operation that the counter does not know.
    """
    costs = []
    x = example[:1].detach()
    leaves = [
        [name for name, module in group.named_modules() if not any(module.children())] for group in network.groups
    ]
    for index, (group, critic) in enumerate(itertools.zip_longest(network.groups, network.critics)):
        elsewhere = [name for other, names in enumerate(leaves) if other != index for name in names]
        flops, activation_bytes = count_flops(group, x), saved_bytes(group, x)
        with evaluation_mode(group), torch.no_grad():
            x = group(x)
        costs.append(
            GroupCosts(
                first=_outermost(leaves[index][0], elsewhere),
                last=_outermost(leaves[index][-1], elsewhere),
                output_shape=tuple(x.shape[1:]),
                flops=flops,
                parameters=count_parameters(group),
                activation_bytes=activation_bytes,
                critic_flops=0 if critic is None else count_flops(critic, x),
                critic_parameters=0 if critic is None else count_parameters(critic),
            )
        )
    return costs


def _outermost(name: str, elsewhere: Sequence[str]) -> str:
    """The outermost module around a module that has none of the modules `elsewhere` inside."""
    parts = name.split(".")
    around = [".".join(parts[: count + 1]) for count in range(len(parts))]
    return next((path for path in around if not any(f"{other}.".startswith(f"{path}.") for other in elsewhere)), name)
