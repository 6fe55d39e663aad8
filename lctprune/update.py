"""The update rule of local critic training: every gradient of one step (Lee, Hsieh, Lee, IEEE TNNLS 2022).

    h_0 = x,   h_i = f_i(stop(h_{i-1}))                                         (1)
    L_i = l(c_i(h_i), y)  for i < N,     L_N = l(h_N, y)                        (3)  per sample
    group i:   gradient of mean_b L_i  through c_i, c_i held fixed              (5, 6)
    critic i:  gradient of mean_b O_i, h_i held fixed                           (7) at m = 1, w = 0
               O_i = (1 - w) ((1 - m) L_i + m |L_i - stop(L_{i+1})|) + w D(o_i, stop(o_{i+1}))

o_i is the output of exit i, and D a distance: where critics distil (w > 0), equation 2, c_i(h_i) close to h_N, down the
chain and in logits.

Group i needs nothing from later groups, and critic i only the next exit's losses, a vector of `batch` numbers, and its
output where it distils. So one step is four functions per group, whoever carries the tensors from one group to the
next: `forward_group`, `run_exit`, `backward_group`, `backward_critic`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.errors import ConfigError, NetworkError
from lctprune.losses import Distance, Loss, cross_entropy, distance_to_teacher, softened_distance
from lctprune.network import LocalCriticNetwork


class GroupForward(NamedTuple):
    """What one group's forward pass leaves for its critic and its backward pass."""

    output: Tensor  # h_i, attached to the group's graph
    boundary: Tensor  # h_i, cut off from the group; what the critic and the next group see


class Exit(NamedTuple):
    """What one exit gives for a batch: attached to its critic's graph, or of the main network to the last group's."""

    output: Tensor  # c_i(h_i), or h_N: [batch, outputs]
    losses: Tensor  # L_i, [batch]

    def detached(self) -> Exit:
        """The same numbers, without a graph."""
        return Exit(self.output.detach(), self.losses.detach())


def local_critic_backward(
    network: LocalCriticNetwork,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss = cross_entropy,
    matching: float = 1.0,
    distill: float = 0.0,
    distance: Distance | None = None,
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
        distill: share of the critics' objective that is the distance to the next exit's output, 0 to 1.
        distance: `distance(output, next exit's output) -> [batch]`; by default that of `distance_to_teacher`, of a
            regression where `y` is of floating-point numbers.
        critic_update: whether the critics get gradients in this step (the paper's Table 3 skips some).

    Returns:
        The exits' losses per sample, shallowest first: one detached [batch] tensor each.

    Raises:
        ConfigError: `matching` or `distill` is not between 0 and 1.
        NetworkError: `loss` does not give one number per sample, or a group changes its input in place.
    """
    for name, share in (("matching", matching), ("distill", distill)):
        if isinstance(share, str) or not 0 <= share <= 1:
            raise ConfigError(f"{name} is {share!r}; of one step it must be a number between 0 and 1")
    if distance is None:
        distance = distance_to_teacher(is_regression=y.is_floating_point())
    losses: list[Tensor] = []
    inputs = x.detach()
    waiting: tuple[nn.Module, Exit] | None = None  # the previous critic, and its exit with the critic's graph
    for index, group in enumerate(network.groups):
        critic = network.critics[index] if index < len(network.critics) else None
        forward = forward_group(group, inputs, index=index)
        exit = run_exit(forward, critic, y, loss)
        backward_group(forward, exit.losses, keep_critic_graph=critic_update and critic is not None)
        if waiting is not None:
            backward_critic(*waiting, *exit.detached(), matching=matching, distill=distill, distance=distance)
        waiting = (critic, exit) if critic is not None and critic_update else None
        losses.append(exit.losses.detach())
        inputs = forward.boundary.detach()
        del forward, exit
    return losses


def forward_group(group: nn.Module, inputs: Tensor, *, index: int = 0) -> GroupForward:
    """Equation 1: run one group on `inputs`, which are cut off from the group before.

    Raises:
        NetworkError: the group, number `index`, changes its input in place.
    """
    version = inputs._version
    output = group(inputs)
    if inputs._version != version:
        raise NetworkError(f"group {index} changes its input in place; give its first layer inplace=False")
    return GroupForward(output, output.detach())


def run_exit(forward: GroupForward, critic: nn.Module | None, target: Tensor, loss: Loss) -> Exit:
    """Equation 3: L_i by the critic on what its group gave; of the last group by its output itself.

    Raises:
        NetworkError: `loss` does not give one number per sample.
    """
    if critic is not None and forward.output.requires_grad:  # else the group is frozen: nobody asks for its gradient
        forward.boundary.requires_grad_()
    output = forward.output if critic is None else critic(forward.boundary)
    losses = loss(output, target)
    if losses.shape != forward.output.shape[:1]:
        raise NetworkError(
            f"the loss gave a tensor of shape {list(losses.shape)}; it must give one number per sample, "
            f"[{forward.output.shape[0]}] (in PyTorch: reduction='none')"
        )
    return Exit(output, losses)


def backward_group(forward: GroupForward, losses: Tensor, *, keep_critic_graph: bool) -> None:
    """Equations 5 and 6: the group's gradient of mean_b L_i, through the critic; frees the group's graph."""
    if not forward.output.requires_grad:  # a group without parameters to train
        return
    if not forward.boundary.requires_grad:  # the last group: it has no critic
        torch.autograd.backward(losses.mean())
        return
    (gradient,) = torch.autograd.grad(losses.mean(), forward.boundary, retain_graph=keep_critic_graph)
    torch.autograd.backward(forward.output, gradient)


def backward_critic(
    critic: nn.Module,
    exit: Exit,
    next_output: Tensor | None,
    next_losses: Tensor,
    *,
    matching: float,
    distill: float = 0.0,
    distance: Distance = softened_distance,
) -> None:
    """Equation 7, generalised by `matching` and `distill`: the critic's own gradient.

    Args:
        critic: gets the gradient.
        exit: what it gave, attached to its graph.
        next_output: of the next exit, [batch, outputs], detached; only needed to distil.
        next_losses: of the next exit, [batch], detached.
        matching: m of the objective, 0 to 1.
        distill: share of the objective that is the distance to the next exit's output, 0 to 1.
        distance: per sample, [batch].
    """
    parameters = [parameter for parameter in critic.parameters() if parameter.requires_grad]
    if not parameters:
        return
    objective = (1 - matching) * exit.losses + matching * (exit.losses - next_losses).abs()
    if distill:
        assert next_output is not None
        objective = (1 - distill) * objective + distill * distance(exit.output, next_output)
    torch.autograd.backward(objective.mean(), inputs=parameters)
