"""Which modules of a network are in which mode while it trains: what the user has frozen stays frozen."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from lctprune.partition.preserving.guarding import Snapshot
from lctprune.utils.modules import hold_frozen


class Modes(NamedTuple):
    """What differs, in a network's modes, from all modules being in the network's own mode.

    Attributes:
        training: paths of modules that are in evaluation mode while the network is in training mode.
        evaluation: paths of modules that are in training mode while the network is in evaluation mode.
        frozen: names of parameters that the network's own `train()` freezes.
    """

    training: frozenset[str] = frozenset()
    evaluation: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()

    def put(self, network: nn.Module, mode: bool) -> None:
        """Put all modules of a network into the mode that they have in a mode of the network."""
        for module in network.modules():
            module.training = mode
        self.adjust(network, mode)

    def adjust(self, network: nn.Module, mode: bool) -> None:
        """Put those modules of a network, or of a part of it with its names, into their mode that have another one."""
        odd = self.training if mode else self.evaluation
        if odd:
            for path, module in network.named_modules(remove_duplicate=False):
                if path in odd:
                    module.training = not mode
        if mode and self.frozen:
            for name, parameter in network.named_parameters(remove_duplicate=False):
                if name in self.frozen:
                    parameter.requires_grad_(False)
        if mode:
            hold_frozen(network)


def modes_of(snapshot: Snapshot) -> Modes:
    """Find out what a model's `train()` does, and which modules are left in evaluation mode in one that trains."""
    snapshot.restore()  # running the model may have called its own `train`
    try:
        return _found(snapshot.model)
    finally:
        snapshot.restore()


def _found(model: nn.Module) -> Modes:
    left = {path for path, module in model.named_modules() if model.training and not module.training}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.train()
    training = {path for path, module in model.named_modules() if path and not module.training}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    model.eval()
    evaluation = {path for path, module in model.named_modules() if path and module.training}
    return Modes(frozenset(left | training), frozenset(evaluation), frozenset(frozen & trained))
