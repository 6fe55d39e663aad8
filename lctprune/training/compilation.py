"""torch.compile for groups and critics."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import nn
from torch._functorch import config as functorch_config

from lctprune.config.training import TrainConfig


def compiled(module: nn.Module) -> nn.Module:
    """A group or critic, on the same parameters, compiled."""
    return cast(nn.Module, torch.compile(module))


def compilation(config: TrainConfig) -> AbstractContextManager[object]:
    """For the steps of a compiled network."""
    # a critic runs backward twice on one graph, which compiled code must be told of
    return functorch_config.patch(donated_buffer=False) if config.compile else nullcontext()
