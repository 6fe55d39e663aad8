"""An experiment between local critics and joint training: groups learn together within a block, blocks apart.

    group i of block K:   gradient of mean_b sum_k L_k over the exits k >= i of block K
    critics:              equation 7 of Lee, Hsieh, Lee 2022, generalised as in `lctprune.update`, across blocks too

As many blocks as groups are local critic training; one block is joint training whose critics distil.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lctprune.losses import Loss
from lctprune.network import Part
from lctprune.training.group_trainer import StepSettings
from lctprune.training.stage import Stage
from lctprune.update import (
    AfterExit,
    AfterGroup,
    BeforeGroup,
    Exit,
    Gradient,
    GroupForward,
    Objective,
    StepEvent,
    backward_critic,
    run_exit,
)
from lctprune.utils.modules import packed


def block_step(
    parts: Iterable[Part], inputs: Tensor, targets: Tensor, *, loss: Loss, objective: Objective | None, blocks: int
) -> Iterator[StepEvent]:
    """Take one step; yield the events of `local_critic_step`, the groups' gradients at the end of their block.

    Args:
        parts: all groups of a network with their critics.
        inputs: input of the first group, [batch, ...].
        targets: targets, as `loss` takes them.
        loss: loss per sample, `loss(output, target) -> [batch]`.
        objective: the critics' objective; None where critics get no gradients in this step.
        blocks: number of blocks, of equally many groups as far as possible.
    """
    parts = list(parts)
    ends = {len(parts) * (block + 1) // blocks - 1 for block in range(blocks)}
    pending: tuple[int, nn.Module, Exit] | None = None
    roots: list[tuple[Tensor, Tensor | None]] = []  # of this block: what is differentiated, and by which gradient
    first = 0  # group of this block
    for index, group, critic in parts:
        yield BeforeGroup(index)
        output = group(inputs)
        forward = GroupForward(output, packed(output.detach()))
        yield AfterGroup(index, forward.boundary)
        exit = run_exit(forward, critic, targets, loss)
        yield AfterExit(index, exit.detached())
        if critic is None:
            roots.append((exit.losses.mean(), None))
        else:
            graph = objective is not None
            (gradient,) = torch.autograd.grad(exit.losses.mean(), forward.boundary, retain_graph=graph)
            roots.append((output, gradient))
        if objective is not None and pending is not None:
            backward_critic(*pending[1:], *exit.detached(), objective)
            yield Gradient(pending[0], "critic")
        pending = None if objective is None or critic is None else (index, critic, exit)
        inputs = output
        if index in ends:
            tensors, gradients = zip(*roots, strict=True)
            torch.autograd.backward(tensors, gradients)
            for each in range(first, index + 1):
                yield Gradient(each, "group")
            roots, first, inputs = [], index + 1, forward.boundary.detach()
        del output, forward, exit


@contextmanager
def training_in_blocks(blocks: int) -> Iterator[None]:
    """Let trainings inside the block take `block_step` in place of their method's step."""
    before = Stage._events

    def events(self: Stage, inputs: Tensor, targets: Tensor, settings: StepSettings) -> Iterator[StepEvent]:
        objective = self._objective(settings) if settings.update_critics else None
        parts = [trainer.part for trainer in self.trainers]
        return block_step(parts, inputs, targets, loss=self._loss, objective=objective, blocks=blocks)

    Stage._events = events  # type: ignore[method-assign]
    try:
        yield
    finally:
        Stage._events = before  # type: ignore[method-assign]
