"""Measure the statistics of batch norm anew, for data that a trained network has not seen."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lctprune.config.training import ResolvedTrainConfig, TrainConfig
from lctprune.data.splits import Split
from lctprune.errors import ConfigError
from lctprune.measure.scores import even_batch_size
from lctprune.network import LocalCriticNetwork
from lctprune.utils.modules import evaluation_mode, moved


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
