"""torch.compile for groups and critics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch._functorch import config as functorch_config

from lctprune.config.training import ResolvedTrainConfig


def compiled(module: nn.Module) -> nn.Module:
    """Return a compiled module that shares the parameters of a group or critic."""
    return cast(nn.Module, torch.compile(module))


@contextmanager
def compilation(config: ResolvedTrainConfig) -> Iterator[None]:
    """Prepare PyTorch inside the block for the steps of a network that may be compiled."""
    if not config.compile:
        yield
        return
    from torch._dynamo import config as dynamo_config  # slow to import

    with (
        # groups share the code of one class, of which PyTorch compiles 8 forms and would run all further groups eagerly
        dynamo_config.patch(recompile_limit=dynamo_config.accumulated_recompile_limit),
        functorch_config.patch(donated_buffer=False),  # a critic runs backward twice on one graph
    ):
        yield
