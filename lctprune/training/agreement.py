"""How far the groups' local gradients agree with those of backpropagation.

    local gradient of group i:  of mean_b L_i  through c_i                          (5, 6), what group i learns from
    true gradient of group i:   of mean_b L_N  through f_{i+1} .. f_N               backpropagation
    gap of exit i:              mean_b |L_i - L_N|                                  what the critics are to close (7)

Where the two gradients point the same way, a step of local critic training is one of backpropagation, which is what the
paper's argument for convergence rests on. Of the last group they are the same gradient: its cosine is 1, its gap 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.losses import Loss, cross_entropy
from lctprune.network import LocalCriticNetwork
from lctprune.update import backward_group, forward_group, run_exit
from lctprune.utils.modules import packed, training_for_now


class GroupAgreement(NamedTuple):
    """Of one group, on one batch.

    Attributes:
        cosine: between its local gradient and its true one, -1 to 1; nan where one of them is zero.
        gradient_norm: of its local gradient.
        true_gradient_norm: of the main network's gradient with respect to its parameters.
        gap: mean over the samples of |L_i - L_N|, the difference between its exit's loss and the main network's.
    """

    cosine: float
    gradient_norm: float
    true_gradient_norm: float
    gap: float


def measure_agreement(
    network: LocalCriticNetwork, x: Tensor, y: Tensor, *, loss: Loss = cross_entropy, seed: int = 0
) -> list[GroupAgreement]:
    """Compare each group's local gradient with that of backpropagation, on one batch, in training mode.

    Costs a step of local critic training and one of backpropagation, and the memory of backpropagation: the activations
    of all groups at once, and two gradients of the main network. Leaves the network and the global random generator as
    they were. For the gradients of a training in bf16, call it under the same autocast.

    Args:
        network: in any mode; parameters that need no gradient are left out.
        x: input of the first group, [batch, ...], on the network's device.
        y: target, as `loss` takes it.
        loss: `loss(output, target) -> [batch]`.
        seed: of the dropout masks, which are the same in both passes.

    Returns:
        One for each group, shallowest first. With one batch of all samples, the root of the sum of the squared
        `true_gradient_norm` is the norm of the gradient of the main network's training loss.

    Raises:
        NetworkError: `loss` does not give one number per sample, or a group changes its input in place.
    """
    with training_for_now(network), torch.enable_grad():
        losses, local = _local_gradients(network, x, y, loss, seed)
        true = _true_gradients(network, x, y, loss, seed)
        gaps = [float((each - losses[-1]).double().abs().mean()) for each in losses]
        return [_compare(*each) for each in zip(local, true, gaps, strict=True)]


def _local_gradients(
    network: LocalCriticNetwork, x: Tensor, y: Tensor, loss: Loss, seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Each exit's losses, [batch], and each group's gradient of their mean, as one vector; frees graph by graph."""
    losses, gradients = [], []
    for index, group in _seeded_groups(network, seed):
        critic = network.critics[index] if index < len(network.critics) else None
        forward = forward_group(group, x.detach(), index=index)
        exit = run_exit(forward, critic, y, loss)
        backward_group(forward, exit.losses, keep_critic_graph=False)
        gradients.append(_vector(group, [parameter.grad for parameter in _trained(group)]))
        group.zero_grad(set_to_none=True)  # of what two groups share, the next one's is its own
        losses.append(exit.losses.detach())
        x = packed(forward.output.detach())
    return losses, gradients


def _true_gradients(network: LocalCriticNetwork, x: Tensor, y: Tensor, loss: Loss, seed: int) -> list[Tensor]:
    """Each group's gradient of the main network's mean loss, as one vector."""
    for _, group in _seeded_groups(network, seed):
        x = packed(group(x))  # in the memory layout of the local pass
    parameters = [parameter for group in network.groups for parameter in _trained(group)]
    found = iter(torch.autograd.grad(loss(x, y).mean(), parameters, allow_unused=True) if parameters else ())
    return [_vector(group, [next(found) for _ in _trained(group)]) for group in network.groups]


def _seeded_groups(network: LocalCriticNetwork, seed: int) -> Iterator[tuple[int, nn.Module]]:
    """Each group with its number, the random generator being where the same group finds it in every pass."""
    for index, group in enumerate(network.groups):
        torch.manual_seed(seed + index)
        yield index, group


def _trained(group: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in group.parameters() if parameter.requires_grad]


def _vector(group: nn.Module, gradients: list[Tensor | None]) -> Tensor:
    """[trained parameters of the group]; what has no gradient is 0."""
    parts = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(_trained(group), gradients, strict=True)
    ]
    return torch.cat([part.flatten() for part in parts]) if parts else torch.zeros(1)


def _compare(local: Tensor, true: Tensor, gap: float) -> GroupAgreement:
    local, true = local.double(), true.double()
    norm, true_norm = float(local.norm()), float(true.norm())
    product = norm * true_norm
    # rounding may carry it beyond 1
    cosine = float((local @ true / product).clamp(-1, 1)) if product > 0 else math.nan
    return GroupAgreement(cosine, norm, true_norm, gap)
