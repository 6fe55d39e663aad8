"""The update rule of local critic training: every gradient of one step (Lee, Hsieh, Lee, IEEE TNNLS 2022).

    h_0 = x,   h_i = f_i(stop(h_{i-1}))                                         (1)
    L_i = l(c_i(h_i), y)  for i < N,     L_N = l(h_N, y)                        (3)  per sample
    group i:   gradient of mean_b L_i  through c_i, c_i held fixed              (5, 6)
    critic i:  gradient of mean_b (1 - m) L_i + m |L_i - stop(L_{i+1})|         (7) at m = 1; h_i held fixed

Group i needs nothing from later groups, and critic i only the next exit's losses, a vector of `batch` numbers. So one
step is three functions per group, whoever carries the tensors from one group to the next: `forward_group`,
`backward_group`, `backward_critic`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.errors import ConfigError, NetworkError
from lctprune.losses import Loss, cross_entropy
from lctprune.network import LocalCriticNetwork


class GroupForward(NamedTuple):
    """What one group's forward pass leaves for its backward passes."""

    output: Tensor  # h_i, attached to the group's graph
    boundary: Tensor  # h_i, cut off from the group; what the critic and the next group see
    losses: Tensor  # L_i, [batch], attached to the critic's graph (the last group's: to the group's own)


def local_critic_backward(
    network: LocalCriticNetwork,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss = cross_entropy,
    matching: float = 1.0,
    critic_update: bool = True,
) -> list[Tensor]:
    """Accumulate the gradients of one local critic step into `.grad`, in place of `loss.backward()`.

    All gradients come from one forward pass, in which every module runs once. Group i's graph is freed before group
    i + 1 runs, so the activations held at a time are those of one group and at most two critics. Without critics this
    is backpropagation.

    Args:
        network: the network; its mode (train or eval) is the caller's.
        x: input of the first group, [batch, ...].
        y: target, as `loss` takes it.
        loss: `loss(output, target) -> [batch]`.
        matching: m of the critics' objective, 0 to 1: 0 is greedy local training, 1 the paper's loss matching.
        critic_update: whether the critics get gradients in this step (the paper's Table 3 skips some).

    Returns:
        The exits' losses per sample, shallowest first: one detached [batch] tensor each.

    Raises:
        ConfigError: `matching` is not between 0 and 1.
        NetworkError: `loss` does not give one number per sample, or a group changes its input in place.
    """
    if not 0 <= matching <= 1:
        raise ConfigError(f"matching is {matching}; it must lie between 0 and 1")
    losses: list[Tensor] = []
    inputs = x.detach()
    waiting: tuple[nn.Module, Tensor] | None = None  # the previous critic, and L_{i-1} with the critic's graph
    for index, group in enumerate(network.groups):
        critic = network.critics[index] if index < len(network.critics) else None
        version = inputs._version
        step = forward_group(group, critic, inputs, y, loss)
        if inputs._version != version:
            raise NetworkError(f"group {index} changes its input in place; give its first layer inplace=False")
        backward_group(step, keep_critic_graph=critic_update and critic is not None)
        if waiting is not None:
            backward_critic(*waiting, next_losses=step.losses.detach(), matching=matching)
        waiting = (critic, step.losses) if critic is not None and critic_update else None
        losses.append(step.losses.detach())
        inputs = step.boundary.detach()
        del step
    return losses


def forward_group(
    group: nn.Module, critic: nn.Module | None, inputs: Tensor, target: Tensor, loss: Loss
) -> GroupForward:
    """Equations 1 and 3: run one group on `inputs` (cut off from the group before), and its critic on what it gives."""
    output = group(inputs)
    boundary = output.detach()
    if critic is not None and output.requires_grad:  # else the group is frozen: nobody asks for its gradient
        boundary.requires_grad_()
    losses = loss(output if critic is None else critic(boundary), target)
    if losses.shape != output.shape[:1]:
        raise NetworkError(
            f"the loss gave a tensor of shape {list(losses.shape)}; it must give one number per sample, "
            f"[{output.shape[0]}] (in PyTorch: reduction='none')"
        )
    return GroupForward(output, boundary, losses)


def backward_group(step: GroupForward, *, keep_critic_graph: bool) -> None:
    """Equations 5 and 6: the group's gradient of mean_b L_i, through the critic; frees the group's graph."""
    if not step.output.requires_grad:  # a group without parameters to train
        return
    mean = step.losses.mean()
    if not step.boundary.requires_grad:  # the last group: it has no critic
        torch.autograd.backward(mean)
        return
    (gradient,) = torch.autograd.grad(mean, step.boundary, retain_graph=keep_critic_graph)
    torch.autograd.backward(step.output, gradient)


def backward_critic(critic: nn.Module, losses: Tensor, *, next_losses: Tensor, matching: float) -> None:
    """Equation 7, generalised by `matching`: the critic's own gradient, from its losses and the next exit's."""
    parameters = [parameter for parameter in critic.parameters() if parameter.requires_grad]
    if parameters:
        objective = (1 - matching) * losses + matching * (losses - next_losses).abs()
        torch.autograd.backward(objective.mean(), inputs=parameters)
