"""Built-in networks by name, and the recipe from which a run builds its network again."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models import resnet

from lctprune.config.network import ALIASES, NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data
from lctprune.errors import ConfigError
from lctprune.models.external import Builder, build, default_weights, find_builder, timm_names, torchvision_names
from lctprune.models.images import sized_resnet, vgg_lct
from lctprune.models.sequences import gru, lstm, mlp, transformer
from lctprune.models.weights import load_weights, read_weights
from lctprune.network import LocalCriticNetwork
from lctprune.partition.attach import attach_critics, cut_places

# name -> function that takes num_outputs and what it needs of in_channels, image_size, features and vocabulary
MODELS: dict[str, Builder] = {
    "resnet18": sized_resnet(resnet.resnet18),
    "resnet34": sized_resnet(resnet.resnet34),
    "resnet50": sized_resnet(resnet.resnet50),
    "resnet101": sized_resnet(resnet.resnet101),
    "vgg-lct": vgg_lct,
    "lstm": lstm,
    "gru": gru,
    "transformer": transformer,
    "mlp": mlp,
}
# where the paper cuts, for the number of groups that it uses; otherwise cuts balance a cost
PAPER_CUTS = {("vgg-lct", 4): ("stage1", "stage2", "stage3")}


def build_network(
    config: NetworkConfig, *, weights: str | None = None, training: TrainConfig | None = None
) -> LocalCriticNetwork:
    """A new network with critics; its weights come from PyTorch's global random generator.

    Args:
        config: which network.
        weights: of the main network, to start from: `default`, torchvision's or timm's own; a file with a state dict of
            the original model; or the directory of a run with the same model, whose main network is taken.
        training: that the cuts are to suit, where they balance its time or memory; see `attach_critics`.

    Raises:
        PartitionError, ConfigError: the model cannot be built or cut as asked.
        NetworkError: the weights cannot be read (a run may have no checkpoint yet), or do not fit.

    Warns:
        NetworkWarning: an auxiliary head is left out, or the classifier is new.
    """
    model = build_model(config)
    given = None
    if weights is not None:
        given = default_weights(config.model) if weights == "default" else read_weights(weights)
    network = attach_critics(
        model,
        config.example,
        num_outputs=config.num_outputs,
        groups=config.groups,
        critic=config.critic,
        critic_depth=config.critic_depth,
        critic_width=config.critic_width,
        critic_pool=config.critic_pool,
        split_at=_cuts(config),
        balance_by=config.balance,
        training=training,
    )
    if given is not None:
        is_run = weights != "default" and Path(str(weights)).is_dir()  # which has what its groups have, and no more
        optional = model.state_dict().keys() - network.main_state_dict().keys() if is_run else set()
        load_weights(model, given, num_outputs=config.num_outputs, source=f"weights {weights}", optional=optional)
    recipe = dataclasses.replace(config, weights=weights or config.weights, cuts=network.cuts)
    return network_of(network, recipe)


def network_of(network: LocalCriticNetwork, recipe: NetworkConfig) -> LocalCriticNetwork:
    """The network that a recipe means: all of it, or the one exit that the recipe names.

    Raises:
        NetworkError: there is no such exit.
    """
    if recipe.exit is not None:
        network = LocalCriticNetwork([network.subnetwork(recipe.exit)])
    network.recipe = recipe
    return network


def _cuts(config: NetworkConfig) -> tuple[str, ...] | None:
    """Where to cut, if something other than the balance says so."""
    if config.cuts or config.split_at:
        return config.cuts or config.split_at
    return PAPER_CUTS.get((config.model, config.groups)) if config.balance == "flops" else None


def fitted(config: NetworkConfig, data: Data) -> NetworkConfig:
    """The same for the inputs and outputs of a data set."""
    shape = tuple(data.example.shape[1:])
    inputs: dict[str, Any]
    if data.vocabulary:
        inputs = {"vocabulary": len(data.vocabulary), "steps": shape[0]}
    elif len(shape) == 3:
        inputs = {"in_channels": shape[0], "image_size": shape[1]}
    else:
        inputs = {"features": shape[-1], "steps": shape[0] if len(shape) == 2 else None}
    return dataclasses.replace(config, num_outputs=data.num_outputs, **inputs)


def possible_cuts(config: NetworkConfig) -> list[str]:
    """Names of the modules behind which the network can be cut, for `split_at`."""
    return [point.name for point in cut_places(build_model(config), config.example)]


def require_known(model: str) -> Builder:
    """Find the function that builds a network, by the network's name.

    Raises:
        ConfigError: nothing has that name.
    """
    builder = MODELS.get(model) or find_builder(model)
    if builder is None:
        known = [*ALIASES, *MODELS]
        near = difflib.get_close_matches(model, [*known, *torchvision_names(), *timm_names()], n=3)
        raise ConfigError(
            f"model {model!r} is unknown; {'did you mean ' + ', '.join(dict.fromkeys(near)) + '? ' if near else ''}"
            f"known are {', '.join(known)}, those that `lctprune models` lists, and package.module:callable"
        )
    return builder


def build_model(config: NetworkConfig) -> nn.Module:
    """The plain network, whole, with new weights."""
    builder = require_known(config.model)
    if config.vocabulary is not None or config.features is not None:
        shape = {"steps": config.steps, "features": config.features, "vocabulary": config.vocabulary}
    else:
        shape = {"in_channels": config.in_channels, "image_size": config.image_size}
    settings = {"num_outputs": config.num_outputs, **shape}
    return build(config.model, builder, settings, config.model_args)
