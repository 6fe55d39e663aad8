"""The optimisers of groups and critics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from lctprune.config.training import ResolvedTrainConfig, TrainConfig
from lctprune.optim.muon import Muon

PAPER_CRITIC_LR = 1e-4  # learning rate of Adam; section IV


class Optimizers:
    """The optimisers of one group and of its critic; None where there is nothing to train."""

    def __init__(self, group: nn.Module, critic: nn.Module | None, config: ResolvedTrainConfig) -> None:
        self.group = _scheduled(group, config, new=new_parameters(group, config))
        self.critic: Optimizer | None = None
        if critic is not None and config.critic_optimizer == "adam":
            self.critic = _adam(critic, config)
        elif critic is not None:
            self.critic = _scheduled(critic, config, new=list(critic.parameters()))

    @property
    def all(self) -> dict[str, Optimizer]:
        """The optimisers that there are, by the part that they train."""
        both = {"group": self.group, "critic": self.critic}
        return {part: optimizer for part, optimizer in both.items() if optimizer is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Return all states, each named by part, number of the parameter and state."""
        return {
            f"{part}.{parameter}.{name}": value
            for part, optimizer in self.all.items()
            for parameter, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` returned."""
        for part, optimizer in self.all.items():
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            states: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                owner, number, state = name.split(".")
                if owner == part:
                    states.setdefault(int(number), {})[state] = _laid_out_as(parameters[int(number)], tensor)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def apply_gradients(optimizer: Optimizer, lr: float, take_step: Callable[[Optimizer], None] | None = None) -> None:
    """Take one step at the schedule's rate (the paper's Adam of critics keeps its own), then free the gradients.

    Args:
        optimizer: optimiser.
        lr: learning rate.
        take_step: function that takes the step, in place of the optimiser's own.
    """
    if isinstance(optimizer, SGD | AdamW):
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
    if take_step is None:
        optimizer.step()
    else:
        take_step(optimizer)
    optimizer.zero_grad(set_to_none=True)


def resolved_for(
    network: nn.Module, example: Tensor, config: TrainConfig, *, pretrained: bool = False
) -> ResolvedTrainConfig:
    """Resolve the settings of a training for a network, trained before or not, and an input that it takes, [1, ...]."""
    return config.resolved(images=example.dim() == 4, convolutional=is_convolutional(network), pretrained=pretrained)


def is_convolutional(network: nn.Module) -> bool:
    """Tell whether a network mixes channels mainly by convolutions, as Muon orthogonalises their updates alone.

    Counts layers, not weights: nine tenths of VGG's weights are in three linear layers.
    """
    linear = sum(isinstance(module, nn.Linear) for module in network.modules())
    return len(_mixing_convolutions(network)) > linear


def new_parameters(group: nn.Module, config: TrainConfig) -> list[nn.Parameter]:
    """Return the parameters of a group that are new where the rest is trained, by `config.new_parameters`."""
    return [each for name, each in group.named_parameters() if name in config.new_parameters]


def _scheduled(module: nn.Module, config: ResolvedTrainConfig, *, new: Iterable[Tensor]) -> Optimizer | None:
    """Make the optimiser that `config` names, whose rate the schedule sets; None if there is nothing to train.

    The parameters in `new` learn at `config.critic_lr` where the others do at `config.lr`.
    """
    numbers = {id(parameter) for parameter in new}
    ratio = config.critic_lr / config.lr

    def factor(parameter: Tensor) -> float:
        return ratio if id(parameter) in numbers else 1.0

    convolutions = _convolutions(module) if config.optimizer == "muon" else {}
    parameters = [each for each in module.parameters() if each.requires_grad and id(each) not in convolutions]
    weights = [parameter for parameter in parameters if parameter.dim() > 1]
    others = [parameter for parameter in parameters if parameter.dim() <= 1]  # biases and normalisation
    decayed: list[dict[str, Any]] = [
        {"params": list(alike), "weight_decay": decay, "lr_factor": multiple}
        for group, decay in ((weights, config.weight_decay), (others, 0.0))
        for multiple, alike in itertools.groupby(group, factor)
    ]
    if not decayed and not convolutions:
        return None
    lr, momentum = config.lr, config.momentum
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
            factor=factor,
        )
    return SGD(decayed, lr=lr, momentum=momentum, nesterov=True, fused=True)


def _convolutions(module: nn.Module) -> dict[int, Tensor]:
    """Return the weights of `_mixing_convolutions` that are to be trained, by their identity."""
    found = [each._parameters["weight"] for each in _mixing_convolutions(module)]
    return {id(weight): weight for weight in found if weight is not None and weight.requires_grad}


def _mixing_convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """Find the convolutions whose weight is a parameter that mixes channels as a matrix does.

    The weight of a grouped convolution does not, and a weight that is computed from others (as by spectral norm) is not
    a parameter.
    """
    found = [each for each in module.modules() if isinstance(each, nn.Conv2d) and each.groups == 1]
    return [each for each in found if "weight" in each._parameters]


def _adam(module: nn.Module, config: ResolvedTrainConfig) -> Adam | None:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Adam(parameters, lr=PAPER_CRITIC_LR, fused=True) if parameters else None


def _laid_out_as(parameter: Tensor, state: Tensor) -> Tensor:
    """Copy a state into its parameter's memory layout (channels last), which fused optimisers take for granted."""
    return torch.empty_like(parameter).copy_(state) if state.shape == parameter.shape else state
