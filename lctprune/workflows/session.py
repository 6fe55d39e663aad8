"""One training from its settings: the data, the network and the run that they ask for, in one process or in several."""

from __future__ import annotations

import dataclasses
import textwrap
import warnings
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
from lctprune.errors import ConfigError, NetworkWarning
from lctprune.models.build import build_network, fitted, require_known
from lctprune.models.external import default_normalization
from lctprune.network import LocalCriticNetwork
from lctprune.runs import Run
from lctprune.training.distributed.process_group import ProcessGroup
from lctprune.training.trainer import open_run
from lctprune.workflows.added_critics import heads_to_add


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train, on what, how.

    Attributes:
        network, data, training: the settings; the network's inputs and outputs are fitted to the data.
        weights: of the main network, to start from: a file, a run directory, or `default`. See `build_network`.
        download: whether the data may be downloaded.
        out: the run directory, new or empty; by default one below `runs/`.
        resume: continue the run in `out`; once that has a checkpoint, `weights` may be left out.
        dense: critics are to be added after training, so where none can be, nothing is begun. See `densify`.

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
    def settings(self) -> dict[str, Any]:
        """What must be the same in all processes, by name."""
        parts: dict[str, Any] = {"network": self.network, "data": self.data, "training": self.training}
        settings = {
            f"{part} {name}": value
            for part, config in parts.items()
            for name, value in dataclasses.asdict(config).items()
        }
        del settings["data data_dir"]  # paths are rank 0's: elsewhere they may be others
        settings["data name"] = Path(self.data.name).name
        return {**settings, "weights": self.weights and Path(self.weights).name, "torch": torch.__version__}


class Begun(NamedTuple):
    """What `train_steps` takes; data and run are rank 0's alone."""

    network: LocalCriticNetwork
    data: Data | None
    run: Run | None


def begin(job: Job, processes: ProcessGroup | None = None, *, replicas: int = 1) -> Begun:
    """Load the data, build the network and open the run: all in rank 0, and its network in every process.

    Raises:
        ConfigError: the processes were started with different settings, or settings do not fit each other.
        DataError, NetworkError, PartitionError, RunError: as of what is loaded and built.
    """
    if processes is None:
        return _load(job)
    processes.require_equal({**job.settings, "replicas": replicas})
    begun = _load(job) if processes.rank == 0 else None
    recipe = processes.share(begun and begun.network.recipe and begun.network.recipe.to_dict())
    if begun is not None:
        return begun
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkWarning)  # rank 0 says it
        return Begun(skeleton(NetworkConfig(**recipe), seed=job.training.seed), None, None)


def skeleton(recipe: NetworkConfig, *, seed: int) -> LocalCriticNetwork:
    """A network for which weights will come from elsewhere: without memory for them, wherever that is possible.

    It is where a state dict holds all tensors that the network has, and where it can be built on PyTorch's meta device.

    Args:
        recipe: with the places where the network is cut.
        seed: for what no state dict holds.
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


def _load(job: Job) -> Begun:
    config, weights = job.network, job.weights
    require_known(config.model)  # before the data is read
    resumed = Run(job.out) if job.resume and job.out is not None else None
    if resumed:
        begun = resumed.config["network"] or {}
        config = dataclasses.replace(config, cuts=begun.get("cuts") if begun.get("model") == config.model else None)
        if weights is None and resumed.epochs_done:  # the checkpoint has what became of them
            config = dataclasses.replace(config, weights=begun.get("weights"))
    given = Run(weights) if weights and Path(weights).is_dir() else None
    statistics = _statistics(config, weights, given or (resumed if config.weights else None))
    data = load_data(job.data, download=job.download, **statistics._asdict())
    if given:
        _require_alike(given, data, job)
    torch.manual_seed(job.training.seed)
    network = build_network(fitted(config, data), weights=weights, training=job.training)
    if job.dense:
        with torch.random.fork_rng(devices=[]):
            heads_to_add(network, data.example)
    return Begun(network, data, open_run(network, data, job.training, run_dir=job.out, resume=job.resume))


def _statistics(config: NetworkConfig, weights: str | None, given: Run | None) -> Statistics:
    """What the weights, the model's own or those of a run, were trained with."""
    if given is not None:
        return recorded_statistics(given.config["data"] or {})
    return Statistics(default_normalization(config.model) if weights == "default" else None)


def _require_alike(given: Run, data: Data, job: Job) -> None:
    """What goes into a run's main network and comes out must mean the same in the new data; where all is trained on,
    other classes get a warning."""
    recorded = given.config["data"] or {}
    for what, own in (("vocabulary", data.vocabulary), ("columns", data.columns)):
        if list(own) != recorded.get(what, [] if what == "vocabulary" else list(own)):
            raise ConfigError(
                f"{given.path} was trained with other {what} than {job.data.name} has; give the same data"
            )
    classes = recorded.get("classes", list(data.classes))
    if classes == list(data.classes):
        return
    was, now = (textwrap.shorten(", ".join(names), 60) or "none" for names in (classes, data.classes))
    if job.training.freeze_main:
        raise ConfigError(
            f"{given.path} was trained on other classes ({was}, not {now}), which --freeze-main keeps; leave it out"
        )
    if len(classes) == len(data.classes):  # else the classifier is new, and a warning says so
        warnings.warn(f"{given.path} was trained on other classes: {was}, not {now}", NetworkWarning, stacklevel=3)
