"""Begin a session of training from its settings: load the data, build the network and open the run."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from lctprune.config.data import DataConfig
from lctprune.config.given import Given
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.data.builtin import CLUTTERED
from lctprune.data.cluttered_digits import SIZE
from lctprune.data.dataset import Data, Statistics, recorded_statistics
from lctprune.data.load import load_data
from lctprune.errors import DataError, NetworkError, NetworkWarning
from lctprune.losses import Loss
from lctprune.models.build import MODELS, build_network, fitted, require_takes
from lctprune.models.input_kinds import refuse_table
from lctprune.models.own_images import OwnImages, own_images
from lctprune.models.weights import is_run, read_weights
from lctprune.network import LocalCriticNetwork
from lctprune.run_files import CHECKPOINT, NETWORK_PREFIX
from lctprune.runs import Run, require_new
from lctprune.training.distributed.process_group import ProcessGroup
from lctprune.training.progress import Progress
from lctprune.training.trainer import open_run, train_steps
from lctprune.workflows.added_critics import critics_to_add
from lctprune.workflows.earlier_critics import match_saved
from lctprune.workflows.given_network import (
    in_range_of,
    measure_given,
    note_on_size,
    other_arguments,
    require_alike,
    warn_of_seen_samples,
)
from lctprune.workflows.session_settings import SessionSettings

SIDES = {"digits": 32, CLUTTERED: SIZE, "cifar10": 32, "cifar100": 32, "fashion-mnist": 28}  # of built-in images


class Session(NamedTuple):
    """A training that is ready to start.

    Attributes:
        network: network to train.
        data: data to train and validate on; None in all processes but the first.
        run: run that training writes; None in all processes but the first.
        loss: loss per sample; by default that of the run's settings.
        validation_loss: loss per sample on the validation split; by default that of the run's settings.
        cost: cost of a training that adds to a run, in epochs of that one's own; None where it is not known.
    """

    network: LocalCriticNetwork
    data: Data | None
    run: Run | None
    loss: Loss | None = None
    validation_loss: Loss | None = None
    cost: float | None = None

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
        return _begin(settings, None)
    processes.require_equal({**settings.common, "replicas": replicas})
    session = _begin(settings, processes) if processes.rank == 0 else None
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


def _begin(settings: SessionSettings, processes: ProcessGroup | None) -> Session:
    network, data, training, given = prepare(settings)
    run = open_run(
        network, data, training, run_dir=settings.out, resume=settings.resume, given=given, processes=processes
    )
    return Session(network, data, run)


class Prepared(NamedTuple):
    """What `open_run` needs: network, data, settings of the training, and a function that measures a given network."""

    network: LocalCriticNetwork
    data: Data
    training: TrainConfig
    given: Callable[[], Given] | None = None


def prepare(settings: SessionSettings) -> Prepared:
    """Load the data and build the network, and write nothing. Errors are those of `begin`."""
    require_takes(settings.network)  # before the data is read
    if settings.out is not None and not settings.resume:
        require_new(settings.out)
    if settings.weights is not None and settings.weights != "default" and not Path(settings.weights).exists():
        read_weights(settings.weights)  # which says so
    resumed = Run(settings.out) if settings.resume and settings.out is not None else None
    if resumed and settings.extend:
        resumed.record_epochs(settings.training.epochs)
        resumed = Run(resumed.path)
    config = _resumed(settings, resumed) if resumed else settings.network
    given = Run(settings.weights) if settings.weights and is_run(settings.weights) else None
    own = OwnImages()
    if settings.weights and not given:
        own = own_images(config.model, None if settings.weights == "default" else settings.weights)
    statistics = _statistics(config, settings.weights, given, resumed, own)
    data_config = _sized(settings, resumed, own)
    try:
        data = load_data(data_config, download=settings.download, most=own.size, **statistics._asdict())
    except DataError as error:
        refuse_table(config.model, data_config, error)
        raise
    if given:
        data = in_range_of(given, data, settings.data)
        require_alike(given, data, settings)
    torch.manual_seed(settings.training.seed)
    try:
        network = build_network(fitted(config, data), weights=settings.weights, training=settings.training)
    except NetworkError as error:
        if others := other_arguments(given, config):
            raise NetworkError(f"{error}{others}") from error
        raise
    finally:
        if not resumed:  # also beside an error that it explains
            note_on_size(config.model, data, own, data_config)
    if resumed and (resumed.path / CHECKPOINT).exists():
        match_saved(network, resumed.read_checkpoint(NETWORK_PREFIX).keys())
    if settings.dense:
        with torch.random.fork_rng(devices=[]):
            critics_to_add(network, data.example)
    training = settings.training
    if resumed and not settings.weights:
        training = dataclasses.replace(training, new_parameters=resumed.config.training.new_parameters)
    measured = None
    if settings.weights and not resumed:
        warn_of_seen_samples(network, data, given)
        measured = partial(measure_given, network, data, training)
    return Prepared(network, data, training, measured)


def _sized(settings: SessionSettings, resumed: Run | None, own: OwnImages) -> DataConfig:
    """Return the settings of the data, with the image size of a resumed run, or one that its images are reduced to."""
    if settings.data.image_size is not None:
        return settings.data
    size = None
    if resumed and resumed.config.data and resumed.config.network and resumed.config.network.weights:
        size = resumed.config.data.config.image_size
    elif own.size and own.size < SIDES.get(settings.data.name, 0):
        size = own.size
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
    names = recorded.cut_point_names if recorded and cuts is not None else None
    config = dataclasses.replace(config, cuts=cuts, cut_point_names=names)
    return dataclasses.replace(config, weights=weights, weights_note=note, architecture=architecture)


def _statistics(
    config: NetworkConfig, weights: str | None, given: Run | None, resumed: Run | None, own: OwnImages
) -> Statistics:
    """Return how to read the data: as for the weights, the model's own or those of a run, or as a resumed run does."""
    source = given or resumed
    recorded = Statistics() if source is None else recorded_statistics(source.config.data)
    if given:
        return recorded._replace(preprocessing=None)  # its images may be others
    if resumed and config.weights:
        return recorded
    # a file for a network of ours may be of one for small images, which torchvision does not have
    normalization = own.normalization if weights == "default" or config.model not in MODELS else None
    return recorded._replace(normalization=normalization, target_normalization=None)
