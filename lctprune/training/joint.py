"""Joint training of groups and critics: all gradients go through the whole network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lctprune.losses import Loss
from lctprune.network import Part
from lctprune.update import AfterExit, AfterGroup, BeforeGroup, Exit, Gradient, StepEvent


def joint_step(parts: Iterable[Part], inputs: Tensor, targets: Tensor, *, loss: Loss) -> Iterator[StepEvent]:
    """Take one step of deep supervision: everything learns from the sum of all exits' losses.

    Lee et al. 2015, arXiv 1409.5185. Each critic's graph is freed before the next group runs, so the step holds the
    activations of all groups and of one critic. Yields the events of `local_critic_step`; the groups' gradients come at
    the end.

    Args:
        parts: all groups of a network with their critics.
        inputs: input of the first group, [batch, ...].
        targets: targets, as `loss` takes them.
        loss: `loss(output, target) -> [batch]`.
    """
    parts = list(parts)
    roots: list[tuple[Tensor, Tensor | None]] = []  # what is differentiated at the end, and by which gradient
    for index, group, critic in parts:
        yield BeforeGroup(index)
        inputs = group(inputs)
        yield AfterGroup(index, inputs.detach())
        boundary = inputs if critic is None else inputs.detach().requires_grad_()
        output = boundary if critic is None else critic(boundary)
        losses = loss(output, targets)
        yield AfterExit(index, Exit(output, losses).detached())
        if critic is None:
            roots.append((losses.mean(), None))
        else:
            torch.autograd.backward(losses.mean())
            roots.append((inputs, boundary.grad))
            yield Gradient(index, "critic")
        del output, losses
    trained = [root for root in roots if root[0].requires_grad]  # the network may have frozen parts in front
    if trained:
        tensors, gradients = zip(*trained, strict=True)
        torch.autograd.backward(tensors, gradients)
    for index, *_ in parts:
        yield Gradient(index, "group")
