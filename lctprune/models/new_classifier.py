"""Start a classifier that trained weights do not contain: at zero, so that it does not shake the trained layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lctprune.network import LocalCriticNetwork
from lctprune.utils.modules import evaluation_mode


def start_at_zero(network: LocalCriticNetwork, example: Tensor) -> None:
    """Set a new classifier to zero: all classes are then equally likely, and the layers before it get no gradient yet.

    Zeros that would never learn are not kept. In front of a ReLU (SqueezeNet) biases are 1, which says the same; where
    that does not help either, as in a chain of new layers, the classifier stays as it was built.

    Args:
        network: network with its trained weights, and the names of its new parameters; scales of normalisation among
            these are left alone.
        example: input, [1, ...].
    """
    every = (pair for group in network.groups for pair in group.named_parameters())
    new = {name: each for name, each in every if name in network.new_parameters and each.requires_grad}
    weights = {name: each for name, each in new.items() if each.dim() > 1}
    layers = {name.rpartition(".")[0] for name in weights}
    biases = [each for name, each in new.items() if each.dim() == 1 and name.rpartition(".")[0] in layers]
    built = [(each, each.detach().clone()) for each in (*weights.values(), *biases)]
    if example.is_floating_point():
        example = torch.rand(example.shape, generator=torch.Generator().manual_seed(0), dtype=example.dtype)
    for bias in (0.0, 1.0):
        with torch.no_grad():
            for each in weights.values():
                each.zero_()
            for each in biases:
                each.fill_(bias)
        parts = [[each for name, each in new.items() if name.rpartition(".")[0] == layer] for layer in sorted(layers)]
        if _learns(network, parts, example):
            return
    with torch.no_grad():
        for each, value in built:
            each.copy_(value)


def _learns(network: nn.Module, layers: Sequence[Sequence[Tensor]], example: Tensor) -> bool:
    """Tell whether each layer has a gradient that is finite and not all zero: of its bias where features are zero."""
    if not layers:
        return True
    with evaluation_mode(network), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        output = network(example)
        direction = torch.rand(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
        every = [each for layer in layers for each in layer]
        found = torch.autograd.grad((output * direction).sum(), every, allow_unused=True)
    gradients = {id(each): gradient for each, gradient in zip(every, found, strict=True) if gradient is not None}
    if not all(gradient.isfinite().all() for gradient in gradients.values()):
        return False
    return all(any(gradients[id(each)].any() for each in layer if id(each) in gradients) for layer in layers)
