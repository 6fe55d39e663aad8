"""Build networks with critics by name, and rebuild a run's network from its recipe."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from torch import nn

from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data
from lctprune.errors import ConfigError
from lctprune.models.external import Builder, call_builder, default_weights, find_builder, require_arguments
from lctprune.models.images import sized_resnet, vgg_lct
from lctprune.models.input_kinds import require_kind
from lctprune.models.names import unknown_model
from lctprune.models.new_classifier import start_at_zero
from lctprune.models.sequences import gru, lstm, mlp, transformer
from lctprune.models.transformers_models import is_transformers_name, read_architecture
from lctprune.models.weights import Loaded, is_run, load_weights, read_weights
from lctprune.network import LocalCriticNetwork
from lctprune.partition.attach import attach_critics
from lctprune.partition.cutting import possible_cut_points
from lctprune.pruning.record import apply_record
from lctprune.utils.wrappers import unwrapped

# name -> function that takes num_outputs, and those of in_channels, image_size, features and vocabulary that it needs
MODELS: dict[str, Builder] = {
    "resnet18": sized_resnet("resnet18"),
    "resnet34": sized_resnet("resnet34"),
    "resnet50": sized_resnet("resnet50"),
    "resnet101": sized_resnet("resnet101"),
    "vgg-lct": vgg_lct,
    "lstm": lstm,
    "gru": gru,
    "transformer": transformer,
    "mlp": mlp,
}
# cut points of the paper, for the number of groups that it uses; other networks are cut so that a cost balances
PAPER_CUTS = {("vgg-lct", 4): ("stage1", "stage2", "stage3")}


def build_network(
    config: NetworkConfig, *, weights: str | None = None, training: TrainConfig | None = None
) -> LocalCriticNetwork:
    """Build a network by name, cut it into layer groups and attach critics.

    New weights come from PyTorch's global random generator. Cut points that the config records (`cuts`) are taken as
    they are: nothing is searched or measured.

    Args:
        config: settings of the network.
        weights: weights that the main network starts with: `default`, those of torchvision or timm; a file with a
            state dict of the original model; or the directory of a run with the same model, for its main network.
            By default new ones.
        training: training whose time or memory the groups balance; see `attach_critics`.

    Raises:
        ConfigError: the model is unknown, or cannot be built as asked.
        PartitionError: the model cannot be cut as asked.
        NetworkError: the weights cannot be read (a run may have no checkpoint yet), or do not fit.

    Warns:
        NetworkWarning: an auxiliary head is left out, the classifier is new, or an operation has no FLOP formula.
    """
    if is_transformers_name(config.model) and config.architecture is None:
        config = dataclasses.replace(config, architecture=read_architecture(config.model))
        if weights == "default" and config.vocabulary is not None:
            raise ConfigError(
                f"{config.model} has a tokenizer of its own, with which sentences in files are not read; train it with "
                "new weights, or from a program that tokenizes them (docs: Models of transformers)"
            )
    model = build_model(config)
    given = None
    if weights is not None:
        given = {"": dict(default_weights(config.model))} if weights == "default" else read_weights(weights)
    network = attach_critics(
        model,
        config.example,
        num_outputs=config.num_outputs,
        groups=config.groups,
        critic=_given_kinds(config),
        critic_depth=config.critic_depth,
        critic_width=config.critic_width,
        critic_pool=config.critic_pool,
        split_at=_given_cut_points(config),
        balance_by=config.balance,
        training=training,
        known=None if config.cuts is None else config.tracing,
    )
    loaded = Loaded(config.weights_note)
    if weights is not None and given is not None:
        from_run = weights != "default" and is_run(weights)  # whose checkpoint lacks what no group runs
        optional = model.state_dict().keys() - network.main_state_dict().keys() if from_run else set()
        source = f"weights {weights}"
        loaded = load_weights(model, given, num_outputs=config.num_outputs, source=source, optional=optional)
        main = network.main_state_dict()
        network.new_parameters = tuple(name for name in loaded.new if name in main)
        start_at_zero(network, config.example)
    recipe = dataclasses.replace(
        config,
        weights=weights or config.weights,
        weights_note=loaded.note,
        cuts=network.cuts,
        tracing=network.tracing,
        cut_point_names=network.cut_point_names or None if config.cuts is None else config.cut_point_names,
        **_chosen(network, config),
    )
    return network_of(network, recipe)


def network_of(network: LocalCriticNetwork, recipe: NetworkConfig) -> LocalCriticNetwork:
    """Return the network that a recipe describes: all of it or one exit, without what was pruned.

    Raises:
        NetworkError: there is no such exit, or what was pruned is of another network.
    """
    if recipe.exit is not None:
        network = LocalCriticNetwork([network.subnetwork(recipe.exit)])
    for record in recipe.pruned or ():
        apply_record(network, record)
    network.recipe = recipe
    return network


def _given_cut_points(config: NetworkConfig) -> tuple[str, ...] | None:
    """Return the cut points that the run recorded, the user named or the paper uses; None to balance a cost."""
    if config.cuts or config.split_at:
        return config.cuts or config.split_at
    return PAPER_CUTS.get((config.model, config.groups)) if config.balance == "flops" else None


def _given_kinds(config: NetworkConfig) -> str | tuple[str, ...]:
    """Return the kinds of critics of a network that was built before; else the one that is asked for."""
    if config.critic == "auto":
        return config.critic_kinds or config.critic
    return (config.critic,) * len(config.cuts) if config.cuts else config.critic


def _chosen(network: LocalCriticNetwork, config: NetworkConfig) -> dict[str, Any]:
    """Return the kinds and widths of critics that were chosen for a network, as its recipe records them."""
    if config.critic != "auto":
        return {}
    is_narrower = any(width != 1 for width in network.critic_widths)
    return {
        "critic_kinds": network.critic_kinds or None,
        "critic_width": config.critic_width or (network.critic_widths if is_narrower else None),
    }


def fitted(config: NetworkConfig, data: Data) -> NetworkConfig:
    """Adapt a config to the inputs and outputs of a data set.

    Raises:
        ConfigError: the network does not take such data.
    """
    require_kind(config.model, data)
    return dataclasses.replace(config, **fitted_settings(data))


def fitted_settings(data: Data) -> dict[str, Any]:
    """Return the settings of a network that a data set decides: its inputs and the number of its outputs."""
    shape = tuple(data.example.shape[1:])
    inputs: dict[str, Any]
    if data.vocabulary:
        inputs = {"vocabulary": len(data.vocabulary), "steps": shape[0]}
    elif len(shape) == 3:
        inputs = {"in_channels": shape[0], "image_size": shape[1]}
    else:
        inputs = {"features": shape[-1], "steps": shape[0] if len(shape) == 2 else None}
    return {"num_outputs": data.num_outputs, **inputs}


def cut_point_names(config: NetworkConfig) -> list[str]:
    """List the network's possible cut points, for `split_at`."""
    return [point.name for point in possible_cut_points(build_model(config), config.example)]


def require_known(model: str) -> Builder:
    """Find the function that builds a network, by the network's name.

    Raises:
        ConfigError: nothing has that name.
    """
    builder = MODELS.get(model) or find_builder(model)
    if builder is None:
        raise unknown_model(model)
    return builder


def require_takes(config: NetworkConfig) -> None:
    """Refuse a network that nothing has the name of, or that does not take its further arguments, before it is built.

    Raises:
        ConfigError: the name or an argument is unknown.
    """
    require_arguments(config.model, require_known(config.model), config.model_args)


def build_model(config: NetworkConfig) -> nn.Module:
    """Build the plain network, uncut, with new weights."""
    builder = require_known(config.model)
    if config.vocabulary is not None or config.features is not None:
        shape = {"steps": config.steps, "features": config.features, "vocabulary": config.vocabulary}
    else:
        shape = {"in_channels": config.in_channels, "image_size": config.image_size}
    if config.architecture is not None:
        builder = partial(builder, architecture=config.architecture)
    settings = {"num_outputs": config.num_outputs, **shape}
    return unwrapped(call_builder(config.model, builder, settings, config.model_args))
