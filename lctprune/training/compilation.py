"""torch.compile for groups and critics."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import nn
from torch._functorch import config as functorch_config

from lctprune.config.training import ResolvedTrainConfig


def compiled(module: nn.Module) -> nn.Module:
    """Return a compiled module that shares the parameters of a group or critic."""
    return cast(nn.Module, torch.compile(module))


def compilation(config: ResolvedTrainConfig) -> AbstractContextManager[object]:
    """Return a context for the steps of a network that may be compiled."""
    # a critic runs backward twice on one graph, which compiled code must be told of
    return functorch_config.patch(donated_buffer=False) if config.compile else nullcontext()
