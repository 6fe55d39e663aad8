"""torch.compile for a network with critics."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import nn
from torch._functorch import config as functorch_config

from lctprune.network import LocalCriticNetwork
from lctprune.train_config import TrainConfig


def compiled(network: LocalCriticNetwork) -> LocalCriticNetwork:
    """The same parameters, with every group and critic compiled on its own."""

    def compile_each(modules: Iterable[nn.Module]) -> list[nn.Module]:
        return [cast(nn.Module, torch.compile(module)) for module in modules]

    return LocalCriticNetwork(compile_each(network.groups), compile_each(network.critics))


def compilation(config: TrainConfig) -> AbstractContextManager[object]:
    """For the steps of a compiled network."""
    # a critic runs backward twice on one graph, which compiled code must be told of
    return functorch_config.patch(donated_buffer=False) if config.compile else nullcontext()
