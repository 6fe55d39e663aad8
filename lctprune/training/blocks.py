"""Training in blocks of consecutive groups: within a block gradients cross from group to group, between blocks none.

    group i of block K:   gradient of mean_b sum_k L_k over the exits k >= i of K, critics held fixed
    critic i:             equation 7 of Lee, Hsieh, Lee 2022, generalised as in `lctprune.update`, also across blocks

As many blocks as groups are local critic training; one block is joint training whose critics may distil.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor, nn

from lctprune.errors import ConfigError
from lctprune.losses import Loss
from lctprune.network import Part
from lctprune.update import (
    AfterExit,
    AfterGroup,
    BeforeGroup,
    CriticPending,
    Exit,
    Gradient,
    GroupForward,
    Objective,
    StepEvent,
    backward_critic,
    forward_group,
    run_exit,
)
from lctprune.utils.modules import packed
from lctprune.utils.wording import counted

Root = tuple[Tensor, Tensor | None]  # what is differentiated, and by which gradient


def require_blocks(blocks: int | None, *, groups: int) -> None:
    """Refuse more blocks than groups.

    Raises:
        ConfigError: there are more.
    """
    if blocks is not None and blocks > groups:
        raise ConfigError(
            f"blocks is {blocks}, and there {'is' if groups == 1 else 'are'} {counted(groups, 'group')}; give fewer "
            "`blocks`, or more `groups`"
        )


def block_ends(groups: int, blocks: int) -> list[int]:
    """Return the last group of each block; all blocks have equally many groups, as far as possible."""
    return [groups * (block + 1) // blocks - 1 for block in range(blocks)]


def block_step(
    parts: Iterable[Part],
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Loss,
    objective: Objective | None,
    ends: Collection[int],
) -> Iterator[StepEvent]:
    """Take one step over whole blocks, adding gradients to `.grad`; yield the events of `local_critic_step`.

    The groups of a block get their gradients at its end. The step holds the activations of one block and of at most two
    critics.

    Args:
        parts: consecutive groups with their critics: those of all blocks, or of the blocks in one process.
        inputs: input of the first group, [batch, ...], detached.
        targets: targets, as `loss` takes them.
        loss: loss per sample, `loss(output, target) -> [batch]`.
        objective: the critics' objective; None where critics get no gradients in this step.
        ends: numbers of the groups that end a block.

    Raises:
        NetworkError: `loss` does not give one number per sample, or a group changes its input in place.
    """
    pending: tuple[int, nn.Module, Exit] | None = None  # the previous critic, and its exit with the critic's graph
    block: list[int] = []
    roots: list[Root] = []
    for index, group, critic in parts:
        yield BeforeGroup(index)
        forward = forward_group(group, inputs, index=index)
        is_end = index in ends
        inputs = packed(forward.boundary.detach()) if is_end else forward.output
        yield AfterGroup(index, inputs.detach())
        exit = run_exit(forward, critic, targets, loss)
        yield AfterExit(index, exit.detached())
        block.append(index)
        roots += _root(forward, critic, exit.losses, keep_critic_graph=objective is not None)
        del forward
        if is_end:
            _backward(roots)
            for each in block:
                yield Gradient(each, "group")
            block = []
        if objective is not None and pending is not None:
            backward_critic(*pending[1:], *exit.detached(), objective)
            yield Gradient(pending[0], "critic")
        pending = None if objective is None or critic is None else (index, critic, exit)
        del exit
    if pending is not None:
        yield CriticPending(pending[0], pending[2])


def _root(forward: GroupForward, critic: nn.Module | None, losses: Tensor, *, keep_critic_graph: bool) -> list[Root]:
    """Return by which gradient a group's output is differentiated at the end of its block, if anything learns from it.

    The critic's graph is freed, unless the critic itself is to learn from it.
    """
    if not forward.output.requires_grad:  # no group of the block up to here has parameters to train
        return []
    if critic is None:
        return [(losses.mean(), None)]
    (gradient,) = torch.autograd.grad(losses.mean(), forward.boundary, retain_graph=keep_critic_graph)
    return [(forward.output, gradient)]


def _backward(roots: list[Root]) -> None:
    """Add the gradients of a block, and free its graph."""
    if roots:
        tensors, gradients = zip(*roots, strict=True)
        roots.clear()
        torch.autograd.backward(tensors, gradients)
