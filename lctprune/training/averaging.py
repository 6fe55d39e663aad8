"""An exponential moving average of the weights of one group and its critic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WARM_UP = 10  # updates in which the average is still made mostly of the newest weights


class Averages:
    """Averages of the floating-point parameters and buffers of modules; what is whole numbers is as in the modules.

    After update number n, from 0, an average becomes d * average + (1 - d) * weight, with d the decay, but at most
    (1 + n) / (10 + n), so that a short training does not average its random beginning (as in TensorFlow's
    `ExponentialMovingAverage`).

    Args:
        modules: modules by name.
        decay: decay per update, 0 to 1.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self._modules, self._decay = modules, decay
        self._held = {name: [each.detach().clone() for each in tensors] for name, tensors in self._live().items()}

    def _live(self) -> dict[str, list[Tensor]]:
        return {name: _averaged(module) for name, module in self._modules.items()}

    def update(self, name: str, number: int) -> None:
        """Move the averages of a module towards its weights, after its update `number`, from 0."""
        decay = min(self._decay, (1 + number) / (WARM_UP + number))
        if held := self._held[name]:
            live = [each.detach() for each in self._live()[name]]
            torch._foreach_lerp_(held, live, 1 - decay)

    def restart(self) -> None:
        """Take the weights of the modules for the averages."""
        for name, tensors in self._live().items():
            for held, live in zip(self._held[name], tensors, strict=True):
                held.copy_(live.detach())

    def exchange(self) -> None:
        """Exchange weights and averages, in place; no tensor is copied."""
        for name, tensors in self._live().items():
            held = self._held[name]
            for index, live in enumerate(tensors):
                live.data, held[index] = held[index], live.data

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the modules the averages for their weights inside the block."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()


def _averaged(module: nn.Module) -> list[Tensor]:
    """Return what is averaged, each tensor once, even if it has several names."""
    tensors = [each for each in module.state_dict(keep_vars=True).values() if isinstance(each, Tensor)]
    return list({id(each): each for each in tensors if each.is_floating_point()}.values())
