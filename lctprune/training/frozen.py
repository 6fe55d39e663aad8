"""Freeze the main network while critics learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from lctprune.config.training import TrainConfig
from lctprune.optim.optimizers import new_parameters


@contextmanager
def frozen(groups: nn.ModuleList, config: TrainConfig) -> Iterator[None]:
    """Disable gradients of the groups inside the block but for new layers, and restore them on exit."""
    parameters = [parameter for parameter in groups.parameters() if parameter.requires_grad]
    new = [each for group in groups for each in new_parameters(group, config) if each.requires_grad]
    groups.requires_grad_(False)
    for parameter in new:
        parameter.requires_grad_()
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_()
