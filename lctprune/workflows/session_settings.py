"""Settings of a session of training, and which of them fit each other."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lctprune.config.data import DataConfig
from lctprune.config.network import NetworkConfig
from lctprune.config.run import CONFIG
from lctprune.config.training import TrainConfig
from lctprune.data.builtin import CLUTTERED
from lctprune.errors import ConfigError
from lctprune.runs import Run
from lctprune.training.resuming import method_to_train_by

DEMO_WIDTH = 8  # channels of a network for the cluttered digits, so that a first training takes a minute
ANY_WIDTH = ("resnet18", "resnet34", "vgg-lct")  # models that can have it; their usual width is 64


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """Settings of a session: which network is trained, on which data, and how.

    Attributes:
        network: settings of the network; its inputs and outputs are fitted to the data. On the cluttered digits, which
            are for a first look, networks of `ANY_WIDTH` with new weights and no width given get `DEMO_WIDTH`.
        data: settings of the data.
        training: settings of the training.
        weights: weights of the main network to start from: a file, a run directory, or `default`. See `build_network`.
        download: whether the data may be downloaded.
        out: run directory, new or empty; by default one below `runs/`.
        resume: whether to continue the run in `out`; once that has a checkpoint, `weights` may be left out.
        extend: whether `training` has another number of epochs than the run that is resumed, which is then recorded.
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
    extend: bool = False
    dense: bool = False

    def __post_init__(self) -> None:
        if self.training.freeze_main and self.weights is None and not self.resume:
            raise ConfigError("`freeze_main` trains critics on a main network that stays as it is; give it `weights`")
        if self.training.epochs == 0 and (self.weights is None or self.resume or self.dense):
            other = "`resume`" if self.resume else "`dense`" if self.dense else "no `weights`"
            raise ConfigError(
                f"epochs is 0, which only measures the network that `weights` gives, and there is {other}; it must be "
                "at least 1"
            )
        if self.data.name == CLUTTERED and self.network.model in ANY_WIDTH and self.weights is None:
            arguments = {"width": DEMO_WIDTH, **self.network.model_args}
            object.__setattr__(self, "network", dataclasses.replace(self.network, model_args=arguments))
        if self.weights not in (None, "default"):
            object.__setattr__(self, "weights", str(Path(self.weights).resolve()))

    def training_in(self, processes: int) -> TrainConfig:
        """Return the settings of the training with the method that so many processes will train by."""
        known = self.resume and self.out is not None and (self.out / CONFIG).exists()
        method = method_to_train_by(self.training, Run(self.out) if known and self.out else None, processes)
        return dataclasses.replace(self.training, method=method)

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
