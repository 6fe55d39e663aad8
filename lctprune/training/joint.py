"""Joint training of groups and critics, as a reference: all gradients go through the whole network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lctprune.losses import Loss
from lctprune.network import Part
from lctprune.update import AfterExit, AfterGroup, BeforeGroup, Exit, Gradient, StepEvent


def joint_step(parts: Iterable[Part], inputs: Tensor, targets: Tensor, *, loss: Loss) -> Iterator[StepEvent]:
    """Take one step of deep supervision: everything learns from the sum of all exits' losses.

    Lee et al. 2015, arXiv 1409.5185. Yields the events of `local_critic_step`, but all gradients come at the end.

    Args:
        parts: all groups of a network with their critics.
        inputs: input of the first group, [batch, ...].
        targets: targets, as `loss` takes them.
        loss: `loss(output, target) -> [batch]`.
    """
    parts, losses = list(parts), []
    for index, group, critic in parts:
        yield BeforeGroup(index)
        inputs = group(inputs)
        yield AfterGroup(index, inputs.detach())
        exit = inputs if critic is None else critic(inputs)
        losses.append(loss(exit, targets))
        yield AfterExit(index, Exit(exit, losses[-1]).detached())
    torch.stack(losses).mean(1).sum().backward()  # type: ignore[no-untyped-call]
    for index, _, critic in parts:
        yield Gradient(index, "group")
        if critic is not None:
            yield Gradient(index, "critic")
