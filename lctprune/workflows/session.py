"""Begin a session of training from its settings: load the data, build the network and open the run."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lctprune.config.data import DataConfig
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data, Statistics, recorded_statistics
from lctprune.data.load import load_data
from lctprune.errors import ConfigError, DataWarning, NetworkWarning
from lctprune.losses import Loss
from lctprune.models.build import build_network, fitted, require_known
from lctprune.models.external import default_normalization
from lctprune.models.transformers_models import default_image_size
from lctprune.models.weights import is_run
from lctprune.network import LocalCriticNetwork
from lctprune.run_files import CHECKPOINT
from lctprune.runs import Run
from lctprune.training.distributed.process_group import ProcessGroup
from lctprune.training.loop import Progress
from lctprune.training.trainer import open_run, train_steps
from lctprune.workflows.added_critics import critics_to_add


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """Settings of a session: which network is trained, on which data, and how.

    Attributes:
        network: settings of the network; its inputs and outputs are fitted to the data.
        data: settings of the data.
        training: settings of the training.
        weights: weights of the main network to start from: a file, a run directory, or `default`. See `build_network`.
        download: whether the data may be downloaded.
        out: run directory, new or empty; by default one below `runs/`.
        resume: whether to continue the run in `out`; once that has a checkpoint, `weights` may be left out.
        dense: whether the front is to be densified after training; if that is impossible, nothing is started.

    Raises:
        ConfigError: the main network is to stay as it is, but has no weights.
    """

    network: NetworkConfig
    data: DataConfig
    training: TrainConfig
    weights: str | None = None
    download: bool = False
    out: Path | None = None
    resume: bool = False
    dense: bool = False

    def __post_init__(self) -> None:
        if self.training.freeze_main and self.weights is None and not self.resume:
            raise ConfigError("--freeze-main trains critics on a main network that stays as it is; give it --weights")
        if self.weights not in (None, "default"):
            object.__setattr__(self, "weights", str(Path(self.weights).resolve()))

    @property
    def common(self) -> dict[str, Any]:
        """The settings that must be equal in all processes, by name."""
        parts: dict[str, Any] = {"network": self.network, "data": self.data, "training": self.training}
        settings = {
            f"{part} {name}": value
            for part, config in parts.items()
            for name, value in dataclasses.asdict(config).items()
        }
        del settings["data data_dir"], settings["data image_root"]  # paths are rank 0's: elsewhere they may be others
        settings["data name"] = Path(self.data.name).name
        return {**settings, "weights": self.weights and Path(self.weights).name, "torch": torch.__version__}


class Session(NamedTuple):
    """A training that is ready to start.

    Attributes:
        network: network to train.
        data: data to train and validate on; None in all processes but the first.
        run: run that training writes; None in all processes but the first.
        loss: loss per sample; by default that of the run's settings.
        validation_loss: loss per sample on the validation split; by default that of the run's settings.
    """

    network: LocalCriticNetwork
    data: Data | None
    run: Run | None
    loss: Loss | None = None
    validation_loss: Loss | None = None

    @property
    def opened(self) -> Run:
        """The run, in a process that has it."""
        assert self.run is not None, "only the first process has the run"
        return self.run

    def steps(self, processes: ProcessGroup | None = None, *, replicas: int = 1) -> Iterator[Progress]:
        """Train, yielding progress after every step. See `train_steps`."""
        return train_steps(
            self.network,
            self.data,
            self.run,
            loss=self.loss,
            validation_loss=self.validation_loss,
            processes=processes,
            replicas=replicas,
        )


def begin(settings: SessionSettings, processes: ProcessGroup | None = None, *, replicas: int = 1) -> Session:
    """Load the data, build the network and open the run: all in rank 0, and its network in every process.

    Args:
        settings: settings of the session.
        processes: processes from `process_group`; None if this one is alone.
        replicas: number of pipelines side by side.

    Raises:
        ConfigError: the processes were started with different settings, or settings do not fit each other.
        DataError: the data cannot be loaded.
        NetworkError: the network cannot be built or trained.
        RunError: the run directory cannot be created or resumed.
    """
    if processes is None:
        return _begin(settings)
    processes.require_equal({**settings.common, "replicas": replicas})
    session = _begin(settings) if processes.rank == 0 else None
    recipe = processes.broadcast(session and session.network.recipe and session.network.recipe.to_dict())
    if session is not None:
        return session
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkWarning)  # rank 0 shows it
        return Session(skeleton(NetworkConfig(**recipe), seed=settings.training.seed), None, None)


def skeleton(recipe: NetworkConfig, *, seed: int) -> LocalCriticNetwork:
    """Build a network whose weights will come from elsewhere, without memory for them if possible.

    It is possible if a state dict holds all tensors of the network, and PyTorch's meta device can build it.

    Args:
        recipe: settings of the network, with its cut points.
        seed: random seed for tensors that no state dict holds.
    """
    with suppress(Exception):  # a network's own code may ask for numbers, which there are none of on the meta device
        with torch.device("meta"):
            network = build_network(recipe)
        held = network.state_dict(keep_vars=True).values()
        tensors = [*network.parameters(), *network.buffers()]
        if {id(tensor) for tensor in tensors} <= {id(tensor) for tensor in held}:
            return network
    torch.manual_seed(seed)
    return build_network(recipe)


def _begin(settings: SessionSettings) -> Session:
    require_known(settings.network.model)  # before the data is read
    resumed = Run(settings.out) if settings.resume and settings.out is not None else None
    config = _resumed(settings, resumed) if resumed else settings.network
    given = Run(settings.weights) if settings.weights and is_run(settings.weights) else None
    statistics = _statistics(config, settings.weights, given, resumed)
    data = load_data(_sized(settings, resumed), download=settings.download, **statistics._asdict())
    if given:
        data = _in_range_of(given, data, settings.data)
        _require_alike(given, data, settings)
    torch.manual_seed(settings.training.seed)
    network = build_network(fitted(config, data), weights=settings.weights, training=settings.training)
    if settings.dense:
        with torch.random.fork_rng(devices=[]):
            critics_to_add(network, data.example)
    run = open_run(network, data, settings.training, run_dir=settings.out, resume=settings.resume)
    return Session(network, data, run)


def _sized(settings: SessionSettings, resumed: Run | None) -> DataConfig:
    """Return the settings of the data, with the image size that the model's own weights need or the run had."""
    if settings.data.image_size is not None:
        return settings.data
    size = default_image_size(settings.network.model) if settings.weights == "default" else None
    if resumed and resumed.config.data and resumed.config.network and resumed.config.network.architecture:
        size = resumed.config.data.config.image_size
    return dataclasses.replace(settings.data, image_size=size)


def _resumed(settings: SessionSettings, run: Run) -> NetworkConfig:
    """Take from a run what was decided at its start: cut points, critics and the origin of the weights."""
    config, recorded = settings.network, run.config.network
    cuts = recorded.cuts if recorded and recorded.model == config.model else None
    if recorded and cuts and config.critic == "auto" and recorded.critic in ("auto", "tail"):  # tail: by a past default
        chosen = recorded.critic_width if recorded.critic == "auto" else None
        config = dataclasses.replace(
            config,
            critic=recorded.critic,
            critic_kinds=recorded.critic_kinds,
            critic_width=config.critic_width or chosen,
        )
    weights, note = config.weights, config.weights_note
    if settings.weights is None and (run.path / CHECKPOINT).exists():  # the checkpoint has what became of them
        weights, note = (recorded.weights, recorded.weights_note) if recorded else (None, None)
    architecture = recorded.architecture if recorded and cuts is not None else None
    return dataclasses.replace(config, cuts=cuts, weights=weights, weights_note=note, architecture=architecture)


def _statistics(config: NetworkConfig, weights: str | None, given: Run | None, resumed: Run | None) -> Statistics:
    """Return how to read the data: as for the weights, the model's own or those of a run, or as a resumed run does."""
    source = given or resumed
    recorded = Statistics() if source is None else recorded_statistics(source.config.data)
    if given:
        return recorded._replace(preprocessing=None)  # its images may be others
    if resumed and config.weights:
        return recorded
    own = default_normalization(config.model) if weights == "default" else None
    return recorded._replace(normalization=own, target_normalization=None)


def _in_range_of(given: Run, data: Data, config: DataConfig) -> Data:
    """Read images of more than 8 bits in the range of the run whose weights are taken, if it holds their values."""
    was = recorded_statistics(given.config.data).preprocessing
    if not (was and was.values and data.preprocessing and data.preprocessing.values):
        return data
    values = data.preprocessing.values
    if was.values == values:
        return data
    if was.values.low <= values.low and values.high <= was.values.high:
        preprocessing = dataclasses.replace(data.preprocessing, values=was.values)
        return load_data(config, normalization=data.normalization, preprocessing=preprocessing)
    message = f"{given.path} was trained on images with values from {was.values}; these are read as {values}"
    warnings.warn(message, DataWarning, stacklevel=3)
    return data


def _require_alike(given: Run, data: Data, settings: SessionSettings) -> None:
    """Refuse data whose inputs mean something else than those of the run whose weights are taken.

    The classes, too, must be the run's if the main network is frozen; otherwise other classes get a warning.

    Raises:
        ConfigError: the data differs.
    """
    others = [field for field, *_ in given.differences(data, "vocabulary", "columns")]
    if given.config.data is None and data.vocabulary:
        others = ["vocabulary"]  # the run did not record its own
    if others:
        raise ConfigError(
            f"{given.path} was trained with other {others[0]} than {settings.data.name} has; give the same data"
        )
    for _, was, now in given.differences(data, "classes"):
        if settings.training.freeze_main:
            raise ConfigError(
                f"{given.path} was trained on other classes ({was}, not {now}), which --freeze-main keeps; leave it out"
            )
        recorded = given.config.data
        if recorded and len(recorded.classes) == len(data.classes):  # else the classifier is new, and a warning says so
            warnings.warn(f"{given.path} was trained on other classes: {was}, not {now}", NetworkWarning, stacklevel=3)
