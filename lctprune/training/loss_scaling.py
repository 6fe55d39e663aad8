"""Scaling of losses for training in fp16, whose gradients would else be rounded to zero.

Micikevicius et al. 2018, arXiv 1710.03740, section 3.2, by PyTorch's `GradScaler`: all gradients are computed times a
scale and divided by it before the weights change. Where one is not finite, the weights stay and the scale is halved;
after 2,000 updates without, it is doubled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer


class LossScale:
    """The scale of all losses in one process.

    Args:
        device: type of the device that gradients are on.
    """

    def __init__(self, device: str) -> None:
        self._scaler = torch.amp.GradScaler(device)
        self._is_used = False  # since the last update

    def scaled(self, exit: nn.Module) -> nn.Module:
        """Return the module at an exit, so that what is differentiated with respect to its output is scaled."""
        return _Scaled(exit, self._scaler)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimiser's parameters by the scale."""
        self._scaler.unscale_(optimizer)
        self._is_used = True

    def take_step(self, optimizer: Optimizer) -> None:
        """Let the optimiser take a step, unless a gradient is not finite."""
        if isinstance(optimizer, SGD):
            _begin_momentum(optimizer)
        self._scaler.step(optimizer)

    def update(self) -> None:
        """Halve or double the scale where it is time to; call it after each step of training that changes weights."""
        if self._is_used:
            self._scaler.update()
            self._is_used = False

    def state(self) -> Tensor:
        """Return the scale and the number of updates since it changed, as a checkpoint keeps them: float32, [2]."""
        state = self._scaler.state_dict()
        return torch.tensor([state["scale"], state["_growth_tracker"]], dtype=torch.float32)

    def load(self, state: Tensor) -> None:
        """Take back what `state` returned."""
        scale, tracker = state.tolist()
        self._scaler.load_state_dict(self._scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracker)})


def _begin_momentum(optimizer: SGD) -> None:
    """Begin all averages of gradients at 0: a first fused step that is left out would leave them as memory was."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            state = optimizer.state[parameter]
            if parameter.grad is not None and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


class _Scaled(nn.Module):
    def __init__(self, exit: nn.Module, scaler: torch.amp.GradScaler) -> None:
        super().__init__()
        self._exit, self._scaler = exit, scaler

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self._exit(x).float()  # in fp16 small gradients of a loss would be lost before they are scaled
        if output.requires_grad:
            output.register_hook(self._scaler.scale)  # type: ignore[no-untyped-call]
        return output
