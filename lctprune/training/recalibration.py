"""The running statistics of batch norm: measured anew for other data, and of the last epoch where it has few steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lctprune.config.training import ResolvedTrainConfig, TrainConfig
from lctprune.data.splits import Split
from lctprune.errors import ConfigError
from lctprune.measure.scores import even_batch_size
from lctprune.network import LocalCriticNetwork
from lctprune.utils.modules import evaluation_mode, moved

USUAL_MOMENTUM = 0.1  # PyTorch's default
REACH = 3.0  # an epoch's steps times the momentum: what statistics keep of an earlier epoch is at most exp(-3), 5%


@contextmanager
def statistics_of_an_epoch(groups: nn.Module, steps: int) -> Iterator[None]:
    """Let statistics inside the block follow the weights within an epoch, if they would take longer.

    MobileNetV3 and others come with a momentum of 0.01 for trainings of many steps: after a few hundred, the network
    would still be evaluated by statistics of its first weights.

    Args:
        groups: modules to train, whose own momenta come back on exit.
        steps: steps of an epoch.
    """
    least = min(USUAL_MOMENTUM, REACH / steps)
    slow = [
        (each, each.momentum)
        for each in groups.modules()
        if isinstance(each, _NormBase) and each.momentum is not None and 0 < each.momentum < least
    ]
    for each, _ in slow:
        each.momentum = least
    try:
        yield
    finally:
        for each, momentum in slow:
            each.momentum = momentum


def recalibrate(network: LocalCriticNetwork, split: Split, config: ResolvedTrainConfig) -> None:
    """Set the running statistics of the main network's batch norm to their averages over one pass of a split.

    Args:
        network: network, which is left on `config.device`.
        split: training samples, which are read once, without augmentation.
        config: settings of the training.
    """
    norms = [each for each in network.groups.modules() if isinstance(each, _NormBase) and each.track_running_stats]
    if not norms:
        return
    moved(network, config.device)
    momenta = [each.momentum for each in norms]
    with evaluation_mode(network), torch.no_grad(), config.autocast():
        for each in norms:
            each.reset_running_stats()
            each.momentum = None  # a cumulative average
            each.training = True
        for inputs, _ in split.batches(even_batch_size(split, config.batch_size)):
            network(inputs.to(config.device))
    for each, momentum in zip(norms, momenta, strict=True):
        each.momentum = momentum


def with_possible_statistics(groups: nn.Module, config: TrainConfig) -> TrainConfig:
    """Return the settings, with statistics that move where a network's batch norm is no module that could hold them.

    Raises:
        ConfigError: they are asked to stay there.
    """
    holders = (each for each in groups.modules() if isinstance(getattr(each, "running_mean", None), torch.Tensor))
    if all(isinstance(each, _NormBase) for each in holders):
        return config
    if config.batch_norm in ("keep", "recalibrate"):
        raise ConfigError(
            f"batch_norm is {config.batch_norm!r}, and this network's batch norm is an operation of its graph, which "
            "follows every batch; it must be train, or freeze the main network"
        )
    return dataclasses.replace(config, batch_norm="train")
