"""Optimisers of groups and critics, and their schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from lctprune.config.training import TrainConfig
from lctprune.optim.muon import Muon

PAPER_CRITIC_LR = 1e-4  # of Adam; section IV


class Optimizers:
    """The optimisers of one group and of its critic; None where there is nothing to train."""

    def __init__(self, group: nn.Module, critic: nn.Module | None, config: TrainConfig) -> None:
        config = config.resolved()
        make_critic_optimizer = _scheduled if config.critic_optimizer == "sgd" else _adam
        self.group = _scheduled(group, config)
        self.critic = None if critic is None else make_critic_optimizer(critic, config)

    @property
    def all(self) -> dict[str, Optimizer]:
        """By the part that they train."""
        both = {"group": self.group, "critic": self.critic}
        return {part: optimizer for part, optimizer in both.items() if optimizer is not None}

    def tensors(self) -> dict[str, Tensor]:
        """All states by name: part, parameter, state."""
        return {
            f"{part}.{parameter}.{name}": value
            for part, optimizer in self.all.items()
            for parameter, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for part, optimizer in self.all.items():
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            states: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                owner, number, state = name.split(".")
                if owner == part:
                    states.setdefault(int(number), {})[state] = _laid_out_as(parameters[int(number)], tensor)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def apply_gradients(optimizer: Optimizer, lr: float) -> None:
    """One step at the schedule's rate (the paper's Adam of critics keeps its own), after which gradients are freed."""
    if isinstance(optimizer, SGD | AdamW):
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def settled(config: TrainConfig, network: nn.Module, example: Tensor) -> TrainConfig:
    """`config.resolved` for a network and the input that it takes, [1, ...]."""
    return config.resolved(images=example.dim() == 4, convolutional=is_convolutional(network))


def is_convolutional(network: nn.Module) -> bool:
    """Whether it mixes channels mainly by convolutions, so that Muon, which orthogonalises theirs alone, is for it.

    Counts layers, not weights: of VGG's, nine tenths are in three linear layers.
    """
    linear = sum(isinstance(module, nn.Linear) for module in network.modules())
    return len(_mixing_convolutions(network)) > linear


def _scheduled(module: nn.Module, config: TrainConfig) -> Optimizer | None:
    """The optimiser that `config`, resolved, names, whose rate the schedule sets; None where nothing is to learn."""
    convolutions = _convolutions(module) if config.optimizer == "muon" else {}
    parameters = [each for each in module.parameters() if each.requires_grad and id(each) not in convolutions]
    weights = [parameter for parameter in parameters if parameter.dim() > 1]
    others = [parameter for parameter in parameters if parameter.dim() <= 1]  # biases and normalisation
    decayed: list[dict[str, Any]] = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((weights, config.weight_decay), (others, 0.0))
        if group
    ]
    if not decayed and not convolutions:
        return None
    lr, momentum = config.lr or 0.0, config.momentum
    if config.optimizer == "adamw":
        return AdamW(decayed, lr=lr, fused=True)
    if config.optimizer == "muon":
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        return Muon(
            convolutions.values(),
            decayed,
            lr=lr,
            momentum=momentum,
            weight_decay=config.weight_decay,
            dtype=dtype,
        )
    return SGD(decayed, lr=lr, momentum=momentum, nesterov=True, fused=True)


def _convolutions(module: nn.Module) -> dict[int, Tensor]:
    """By their identity, the weights of `_mixing_convolutions` that are to be trained."""
    found = [each._parameters["weight"] for each in _mixing_convolutions(module)]
    return {id(weight): weight for weight in found if weight is not None and weight.requires_grad}


def _mixing_convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """Those whose weight mixes channels as a matrix does: that of grouped ones does not, and one that is computed from
    others (spectral norm, say) is no parameter."""
    found = [each for each in module.modules() if isinstance(each, nn.Conv2d) and each.groups == 1]
    return [each for each in found if "weight" in each._parameters]


def _adam(module: nn.Module, config: TrainConfig) -> Adam | None:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Adam(parameters, lr=PAPER_CRITIC_LR, fused=True) if parameters else None


def _laid_out_as(parameter: Tensor, state: Tensor) -> Tensor:
    """A state in its parameter's memory layout (channels last), which fused optimisers take for granted."""
    return torch.empty_like(parameter).copy_(state) if state.shape == parameter.shape else state
