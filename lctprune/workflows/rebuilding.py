"""Build the network of an exported state dict again, from what model.json says of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from lctprune.config.network import NetworkConfig, is_own_function
from lctprune.config.reading import from_json, unknown_fields
from lctprune.errors import LctpruneError, NetworkWarning, RunError, first_line
from lctprune.models.build import build_network
from lctprune.utils.names import shell_word
from lctprune.workflows.exported_files import original_names
from lctprune.workflows.loading import require_recipe, require_sizes, require_types
from lctprune.workflows.members import Member


@dataclass(frozen=True, kw_only=True)
class BuiltFrom:
    """What a network with critics is built from, of which an exit was exported.

    Attributes:
        network: settings of the network.
        exit: number of the exit.
        seed: random seed, for tensors that no state dict holds.
    """

    network: dict[str, Any]
    exit: int
    seed: int


def built_from(member: Member) -> dict[str, Any]:
    """Return what a member of a run is built from, as it stands in model.json."""
    seed = member.run.config.training.seed
    return {"network": require_recipe(member.run).to_dict(), "exit": member.exit, "seed": seed}


def rebuilt(built_from: BuiltFrom, content: bytes, path: Path, card: Path, *, model: str | None = None) -> nn.Module:
    """Build the network of an exported state dict, and load the weights.

    Args:
        built_from: what model.json says.
        content: content of the safetensors file.
        path: that file, for messages.
        card: model.json, for messages.
        model: name of the user's own function that built the network, which is executed only if it is named.

    Raises:
        RunError: the weights do not fit, or the network is built by code that is not named.
    """
    where, remedy = "built_from.network", "export it again"
    recipe = from_json(NetworkConfig, built_from.network, where, file=card, remedy=remedy)
    if unknown := unknown_fields(NetworkConfig, built_from.network, where):
        raise RunError(f"{card} has settings that this version of lctprune does not know ({unknown[0]}); {remedy}")
    if is_own_function(recipe.model) and recipe.model != model:
        raise RunError(
            f"{path} is of {recipe.model}, which is code outside lctprune; to execute it, name it: "
            f"`model={shell_word(recipe.model)}`"
        )
    try:
        tensors = safetensors.torch.load(content)
        require_sizes(card, recipe, tensors, where=where, is_part=True)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", NetworkWarning)
            torch.manual_seed(built_from.seed)
            network = build_network(recipe)
            part = network.subnetwork(built_from.exit)
        names = original_names(network, built_from.exit)
        weights = {name: tensors[names.get(name, name)] for name in part.state_dict()}
        require_types(part.state_dict(keep_vars=True), weights, path)
        part.load_state_dict(weights)
    except LctpruneError:
        raise
    except Exception as error:  # whatever the network's own code raises on other settings
        raise RunError(
            f"{path} does not fit the network that {card} describes ({first_line(error)[:200]}); {remedy}"
        ) from error
    return part.eval()
