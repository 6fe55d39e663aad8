"""What a run's files become again: its network, and the settings of its training."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.errors import ConfigError, NetworkWarning, RunError
from lctprune.models.build import build_network
from lctprune.models.external import is_own_function
from lctprune.network import LocalCriticNetwork
from lctprune.runs import NETWORK_PREFIX, Run, of_this_version


def load_network(run: str | Path | Run, *, model: str | None = None) -> LocalCriticNetwork:
    """The trained network of a run directory, on the CPU, in evaluation mode.

    Executes no code but this package's, torchvision's and timm's, and the function that `model` names.

    Args:
        run: the run or its directory.
        model: as of `Run`.

    Raises:
        RunError: the directory is not a run, has no checkpoint yet, its network was made by hand, or by a function
            other than `model`, or by another version.
    """
    run = run if isinstance(run, Run) else Run(run, model=model)
    require_recipe(run)
    recipe = run.config["network"]
    name = str(recipe.get("model"))
    if is_own_function(name) and name != (model or run.model):
        raise RunError(
            f"{run.path} was trained on {name}, which is code outside lctprune; to execute it, name it: --model {name}"
        )
    weights = run.read_checkpoint(NETWORK_PREFIX)
    remedy = f"train it again, or critics for its main network: --weights {run.path} --freeze-main"
    with (
        of_this_version(run, TypeError, RuntimeError, remedy=remedy),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", NetworkWarning)  # said when it was trained
        torch.manual_seed(run.config["training"]["seed"])  # for what no state dict holds
        network = build_network(NetworkConfig(**recipe))
        network.load_state_dict(weights)
    return network.eval()


def require_recipe(run: Run) -> None:
    """Refuse a run whose network cannot be built from what the run remembers.

    Raises:
        RunError: it was made in a program.
    """
    if run.config["network"] is None:
        tensors = f"Run({str(run.path)!r}).read_checkpoint({NETWORK_PREFIX!r})"
        raise RunError(
            f"{run.path} was trained on a network made in a program; build it there and load {tensors} into it, for "
            "lct.evaluate and lct.export; all else needs a network that lct.build_network makes"
        )


def recorded_training(run: Run) -> TrainConfig:
    """How a run was trained.

    Raises:
        RunError: by another version, with settings that this one does not know.
    """
    with of_this_version(run, TypeError, ConfigError):
        return TrainConfig(**run.config["training"])
