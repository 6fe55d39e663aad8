"""Measure how far the groups' local gradients agree with those of backpropagation.

    local gradient of group i:  gradient of mean_b L_i  through c_i                 (5, 6), what group i learns from
    true gradient of group i:   gradient of mean_b L_N  through f_{i+1} .. f_N      backpropagation
    gap of exit i:              mean_b |L_i - L_N|                                  what the critics are to close (7)

Where the two gradients point in one direction, a step of local critic training is a step of backpropagation; the
paper's argument for convergence rests on this. For the last group the two are equal: its cosine is 1, its gap 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.losses import Loss, cross_entropy
from lctprune.network import LocalCriticNetwork
from lctprune.update import AfterExit, BeforeGroup, Gradient, local_critic_step
from lctprune.utils.modules import packed, training_for_now


class GroupAgreement(NamedTuple):
    """Agreement of one group's local gradient with backpropagation's, on one batch.

    The local gradient is that of equations 5 and 6 of Lee, Hsieh, Lee 2022; the true one that of mean_b L_N, which
    backpropagation gives.

    Attributes:
        cosine: cosine between the two gradients, -1 to 1; nan where one of them is zero.
        gradient_norm: norm of the local gradient.
        true_gradient_norm: norm of the true gradient.
        gap: mean over the batch of |L_i - L_N|, the difference between the group's exit's loss and the main network's.
    """

    cosine: float
    gradient_norm: float
    true_gradient_norm: float
    gap: float


def measure_agreement(
    network: LocalCriticNetwork, x: Tensor, y: Tensor, *, loss: Loss = cross_entropy, seed: int = 0
) -> list[GroupAgreement]:
    """Measure how far each group's local gradient agrees with backpropagation's, on one batch, in training mode.

    This costs a step of local critic training and one of backpropagation, and the memory of backpropagation: the
    activations of all groups at once, and two gradients of the main network. The network and the global random
    generator are restored. For the gradients of a training in bf16, call it under the same autocast.

    Args:
        network: network in any mode; parameters that need no gradient are left out.
        x: input of the first group, [batch, ...], on the network's device.
        y: target, [batch, ...], as `loss` takes it.
        loss: loss per sample, `loss(output, target) -> [batch]`.
        seed: random seed of the dropout masks, which are equal in both passes.

    Returns:
        One entry per group, shallowest first. With one batch of all samples, the root of the sum of the squared
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
    """Compute each exit's losses, [batch], and each group's gradient of their mean, as one vector."""
    losses, gradients = [], []
    for event in local_critic_step(network.parts(), x.detach(), y, loss=loss, objective=None):
        match event:
            case BeforeGroup(index):
                torch.manual_seed(seed + index)
            case AfterExit(exit=exit):
                losses.append(exit.losses)
            case Gradient(index):
                group = network.groups[index]
                gradients.append(_vector(group, [parameter.grad for parameter in _trained(group)]))
                group.zero_grad(set_to_none=True)  # a parameter that two groups hold has a gradient in each
    return losses, gradients


def _true_gradients(network: LocalCriticNetwork, x: Tensor, y: Tensor, loss: Loss, seed: int) -> list[Tensor]:
    """Compute each group's gradient of the main network's mean loss, as one vector."""
    for index, group in enumerate(network.groups):
        torch.manual_seed(seed + index)  # as in the local pass
        x = packed(group(x))  # in the memory layout of the local pass
    parameters = [parameter for group in network.groups for parameter in _trained(group)]
    found = iter(torch.autograd.grad(loss(x, y).mean(), parameters, allow_unused=True) if parameters else ())
    return [_vector(group, [next(found) for _ in _trained(group)]) for group in network.groups]


def _trained(group: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in group.parameters() if parameter.requires_grad]


def _vector(group: nn.Module, gradients: list[Tensor | None]) -> Tensor:
    """Concatenate the gradients of a group's trained parameters; a missing gradient is 0."""
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
