"""Load a run: its network, its data, and the settings of its training."""

from __future__ import annotations

import dataclasses
import os
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from lctprune.config.network import NetworkConfig, is_own_function
from lctprune.config.reading import RESTORE
from lctprune.config.run import CONFIG
from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data
from lctprune.errors import LctpruneError, NetworkWarning, RunError
from lctprune.exporting.compiled import CompiledNetwork
from lctprune.models.build import build_model, build_network
from lctprune.network import LocalCriticNetwork
from lctprune.run_files import CHECKPOINT, Checkpoint, require_no_lost_checkpoint
from lctprune.runs import Run, as_run
from lctprune.utils.names import shell_word
from lctprune.workflows.earlier_critics import match_saved

MOST_GROUPS = 10_000
SLACK = 16  # times as many weights as the checkpoint has, which a network may have that no group runs
SLACK_OF_PARTS = 10_000  # of an exit, or a narrowed network, whose whole is built first
MAX_REASON_LENGTH = 200  # characters kept of PyTorch's message about weights that do not fit


class LoadedRun:
    """A run with its data and networks, each loaded when it is first asked for, and once.

    All that is asked of a checkpoint is answered from the state of the file at the first question, so that a training
    that goes on meanwhile mixes no two epochs.

    Args:
        run: the run.
        data: its data, if that is in memory already.
    """

    def __init__(self, run: Run, data: Data | None = None) -> None:
        self.run = run
        self._data = data
        self._checkpoints: dict[Path, Checkpoint] = {}
        self._networks: dict[Path, LocalCriticNetwork] = {}
        self.compiled: dict[int, CompiledNetwork] = {}  # exits by their numbers, once they were measured in Inductor

    @classmethod
    def of(cls, run: Run | LoadedRun) -> LoadedRun:
        """Return what is loaded already, or a run with nothing loaded yet."""
        return run if isinstance(run, LoadedRun) else cls(run)

    def checkpoint(self, run: Run | None = None) -> Checkpoint:
        """Read the checkpoint of the run, or of a run that was added to it.

        Raises:
            RunError: it has none.
        """
        run = run or self.run
        if run.path not in self._checkpoints:
            if not os.path.lexists(run.path / CHECKPOINT) and not run.epochs_done:  # or that says that it is damaged
                require_no_lost_checkpoint(run.path)
                remedy = f"{run.command('resume')} goes on"
                raise RunError(f"{run.path} has no {CHECKPOINT}: no epoch was finished; {remedy}")
            self._checkpoints[run.path] = run.load_checkpoint()
        return self._checkpoints[run.path]

    def epochs_done(self, run: Run | None = None) -> int:
        """Return the number of epochs of the training up to its checkpoint; 0 without a checkpoint."""
        run = run or self.run
        has_none = run.path not in self._checkpoints and not (run.path / CHECKPOINT).exists()
        return 0 if has_none else self.checkpoint(run).last

    @cached_property
    def data(self) -> Data:
        """The data that the run was trained on."""
        return self.run.load_data() if self._data is None else self._data

    @property
    def epochs(self) -> dict[str, int]:
        """The epoch of the checkpoint and the number of epochs of the training, as files and documents name them."""
        return {"epoch": self.checkpoint().epoch, "epochs": self.run.config.training.epochs}

    def network(self, run: Run | None = None) -> LocalCriticNetwork:
        """Load the network of the run, or of a run that was added to it; to be used as it is, not to be trained."""
        run = run or self.run
        if run.path not in self._networks:
            self._networks[run.path] = self.new_network(run)
        return self._networks[run.path]

    def new_network(self, run: Run | None = None) -> LocalCriticNetwork:
        """Build the network of the run, or of a run that was added to it, for the caller alone."""
        run = run or self.run
        require_executable(run)
        return _network_with(run, self.checkpoint(run).network)


def load_network(run: str | Path | Run, *, model: str | None = None) -> LocalCriticNetwork:
    """Load the trained network of a run, onto the CPU, in evaluation mode.

    No code is executed but this package's, torchvision's and timm's, and that of the function that `model` names. The
    network is cut where it was cut in training; nothing is measured.

    Args:
        run: run or its directory.
        model: name of the user's own function that built the network, `package.module:callable`; see `Run`.

    Raises:
        RunError: the directory is not a run, or has no checkpoint yet; or its network was made in a program, by a
            function other than `model`, or by another version.
    """
    run = as_run(run, model=model)
    require_executable(run, model=model)
    return _network_with(run, run.load_checkpoint().network)


def require_executable(run: Run, *, model: str | None = None) -> None:
    """Refuse a run whose network is built by code outside lctprune that the caller has not named.

    Raises:
        RunError: `model` or the run's `model` does not name that function; or the network was made in a program.
    """
    recipe = require_recipe(run)
    if is_own_function(recipe.model) and recipe.model != (model or run.model):
        raise RunError(
            f"{run.path} was trained on {recipe.model}, which is code outside lctprune; to execute it, name it: "
            f"`model={shell_word(recipe.model)}`"
        )


def _network_with(run: Run, weights: Mapping[str, Tensor]) -> LocalCriticNetwork:
    """Build the network of a run, with these weights, in evaluation mode."""
    recipe = require_recipe(run)
    remedy = f"train it again, or critics for its main network: `weights={shell_word(run.path)}` `freeze_main`"
    run.config.require_known("network", remedy=remedy)
    _require_sizes(run, recipe, weights)
    with (
        _fits_this_version(run, remedy=remedy),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", NetworkWarning)  # shown when it was trained
        torch.manual_seed(run.config.training.seed)  # for tensors that no state dict holds
        network = build_network(recipe)
        match_saved(network, weights.keys())
        require_types(network.state_dict(keep_vars=True), weights, run.path / CHECKPOINT)
        network.load_state_dict(weights)
    return network.eval()


def _require_sizes(run: Run, recipe: NetworkConfig, weights: Mapping[str, Tensor]) -> None:
    """Refuse settings of another network than the checkpoint's, before a much larger one is built.

    Raises:
        RunError: the checkpoint has another number of groups, or no tensor is as wide as a number in the settings.
    """
    numbers = {int(match[1]) for name in weights if (match := re.match(r"groups\.(\d{1,6})\.", name))}
    last, groups = max(numbers, default=0), 1 if recipe.exit is not None else recipe.groups
    if recipe.exit is not None and recipe.exit >= recipe.groups:
        raise RunError(f"{run.path / CONFIG}: network.exit is {recipe.exit}; it must be less than {recipe.groups}")
    critics = {match[1] for name in weights if (match := re.match(r"critics\.(\d{1,6})\.", name))}
    if last >= groups or (critics and len(critics) != groups - 1):
        raise RunError(
            f"{run.path / CONFIG}: network.groups is {recipe.groups}, and the checkpoint has {len(critics)} critics; "
            f"{RESTORE}"
        )
    is_part = recipe.exit is not None or bool(recipe.pruned)  # of the network, which is built first
    require_sizes(run.path / CONFIG, recipe, weights, is_part=is_part)


def require_sizes(
    file: Path, recipe: NetworkConfig, weights: Mapping[str, Tensor], *, is_part: bool, where: str = "network"
) -> None:
    """Refuse settings of a much larger network than the weights are of, before it is built.

    Args:
        file: file with the settings, for messages.
        recipe: the settings.
        weights: tensors by their names.
        is_part: whether the weights are of a part of the network only.
        where: place of the settings in the file.

    Raises:
        RunError: no tensor is as wide as a number in the settings, or the network has many times as many weights.
    """
    if recipe.groups > MOST_GROUPS:
        raise RunError(f"{file}: {where}.groups is {recipe.groups}; it must be at most {MOST_GROUPS}")
    largest = max((tensor.numel() for tensor in weights.values()), default=0)
    for name in ("num_outputs", "in_channels", "features", "vocabulary"):
        if (value := getattr(recipe, name)) is not None and value > max(largest, MOST_GROUPS):
            raise RunError(f"{file}: {where}.{name} is {value}, and no weights are for so many; {RESTORE}")
    if is_own_function(recipe.model):  # called once, as it may do more
        return
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            count = sum(tensor.numel() for tensor in build_model(recipe).state_dict().values())
    except Exception:  # the network's own code may not run there: what is wrong shows when it is built
        return
    given = sum(tensor.numel() for tensor in weights.values())
    if count > (SLACK_OF_PARTS if is_part else SLACK) * max(given, 1) + MOST_GROUPS:
        raise RunError(f"{file}: the network has {count} weights, and the checkpoint {given}; {RESTORE}")


def require_types(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], file: Path) -> None:
    """Refuse weights of another type than the network's, or infinite ones.

    Args:
        own: tensors of the network.
        weights: tensors of the checkpoint, by the same names.
        file: checkpoint, for messages.

    Raises:
        RunError: a tensor is of another type, or infinite.
    """
    for name in own.keys() & weights.keys():
        here, there = own[name], weights[name]
        if here.dtype != there.dtype:
            kinds = [str(each.dtype).removeprefix("torch.") for each in (there, here)]
            raise RunError(f"{file}: {name} is {kinds[0]}; it must be {kinds[1]}, as in the network; {RESTORE}")
        if isinstance(here, nn.Parameter) and not there.isfinite().all():
            raise RunError(f"{file}: {name} has infinite numbers; {RESTORE}")


@contextmanager
def _fits_this_version(run: Run, *, remedy: str) -> Iterator[None]:
    """Turn errors raised inside the block into a `RunError`: the run is of another version."""
    try:
        yield
    except LctpruneError:
        raise
    except Exception as error:  # whatever a network's own code raises on other settings
        reason = textwrap.shorten(str(error), MAX_REASON_LENGTH, placeholder=" ...")
        raise RunError(f"{run.path} does not fit this version of lctprune ({reason}); {remedy}") from error


def require_recipe(run: Run) -> NetworkConfig:
    """Return the settings of a run's network.

    Raises:
        RunError: the network was made in a program.
    """
    if run.config.network is None:
        tensors = f"lct.Run({str(run.path)!r}).load_checkpoint().network"
        raise RunError(
            f"{run.path} was trained on a network made in a program, which no command can build; go on in that program "
            f"with lct.evaluate, lct.select and lct.export (its weights: network.load_state_dict({tensors}))"
        )
    return run.config.network


def recorded_training(run: Run) -> TrainConfig:
    """Return the settings of a run's training, to train on in that way.

    Raises:
        RunError: the run was trained by another version, with settings that this one does not know.
    """
    run.config.require_known("training")
    training = run.config.training
    return dataclasses.replace(
        training,
        critic_lr=training.critic_lr or training.lr,  # earlier versions had no other
        batch_norm="train" if training.batch_norm in ("auto", "train") else "keep",
        new_parameters=(),  # they have been trained since
    )
