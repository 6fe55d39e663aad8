"""The run directory: what training writes, and what is read back. Weights are safetensors; nothing here is a pickle.

config.json              every setting as resolved, the command, versions, machine
metrics.csv              a row an epoch
checkpoint.safetensors   weights and optimiser states after the last whole epoch
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.data.dataset import Data, data_settings, recorded_statistics
from lctprune.data.load import load_data, location, relocated
from lctprune.errors import ConfigError, RunError
from lctprune.utils.environment import environment
from lctprune.utils.files import write_atomically, write_json

CHECKPOINT, NETWORK_PREFIX = "checkpoint.safetensors", "network."  # of a run, and of the network's names in it


RUNS = Path("runs")
MOST_OF_REASON = 200  # characters of what PyTorch says of weights that do not fit
CONFIG, METRICS = "config.json", "metrics.csv"


class Run:
    """One training run, in its directory.

    Args:
        path: of the directory.
        model: the user's own function from which the run's network was built, `package.module:callable`. Loading a
            network executes such a function only if it is named here, whatever the directory says.
        data_path: where the files of the run's data are now, if elsewhere than in training: the folder or file, of
            torchvision's data sets the folder that they are kept in.

    Raises:
        RunError: the directory is not a run.
    """

    def __init__(self, path: str | Path, *, model: str | None = None, data_path: str | Path | None = None) -> None:
        self.path = Path(path)
        self.model = model
        self.data_path = data_path
        try:
            self.config: dict[str, Any] = json.loads((self.path / CONFIG).read_text())
            self.config["network"], self.config["training"], self.config["data"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.path} is not a run directory (no readable {CONFIG} in it); give one that lctprune train made"
            ) from error

    @property
    def metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv."""
        try:
            with (self.path / METRICS).open(newline="") as file:
                return list(csv.DictReader(file))
        except OSError:
            return []

    @property
    def epochs_done(self) -> int:
        """Epochs in the checkpoint; 0 where there is none."""
        if not (self.path / CHECKPOINT).exists():
            return 0
        with _open_checkpoint(self.path) as checkpoint:
            return int((checkpoint.metadata() or {}).get("epoch", 0))

    def load_data(self) -> Data:
        """The data set that the run was trained on, with the same splits and normalisation.

        Raises:
            RunError: the run was trained on data made by hand, or by another version, or the data has changed
                since, or is gone.
            ConfigError: `data_path` is given for data that is in no file.
            DataError: the data cannot be read.
        """
        recorded = self.config["data"]
        if recorded is None:
            raise RunError(
                f"{self.path} was trained on data made in a program; evaluate it there with lct.evaluate"
                f"{', and give the data to lct.densify and lct.finetune' if self.config['network'] else ''}"
            )
        with of_this_version(self, TypeError, ConfigError):
            config = DataConfig(**recorded["config"])
        if self.data_path is not None:
            config = relocated(config, self.data_path)
        place = location(config)
        if place is not None and place.is_absolute() and not place.exists():
            raise RunError(f"{self.path} was trained on data that is not in {place}; say where it is now: --data PATH")
        data = load_data(config, **recorded_statistics(recorded)._asdict())
        self._require_equal(data, "samples", "classes", "fingerprint", "vocabulary")
        return data

    def require_alike(self, data: Data) -> Data:
        """The data, if a network of this run can be trained on with it.

        Raises:
            RunError: it has other classes, words, columns or normalisation than the run was trained on.
        """
        self._require_equal(data, "classes", "vocabulary", "columns", "mean", "std")
        return data

    def _require_equal(self, data: Data, *keys: str) -> None:
        """Of what is recorded; data made in a program has no record."""
        recorded, now = self.config["data"] or {}, data_settings(data) or {}
        for key in keys:
            if recorded.get(key) is not None and key in now and now[key] != recorded[key]:
                was, is_now = (textwrap.shorten(str(value), 100) for value in (recorded[key], now[key]))
                raise RunError(f"the data has changed since {self.path} was trained: {key} was {was}, is {is_now}")

    def remove_leftovers(self) -> None:
        """Parts of files that a process was killed over."""
        for name in (CHECKPOINT, METRICS):
            for leftover in self.path.glob(f".{name}.*"):
                leftover.unlink(missing_ok=True)

    def write_metrics(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Replace metrics.csv."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path / METRICS, text.getvalue().encode())

    def write_checkpoint(self, epoch: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace the checkpoint."""
        own = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        content = safetensors.torch.save(own, metadata={"epoch": str(epoch)})
        write_atomically(self.path / CHECKPOINT, content)

    def read_checkpoint(self, prefix: str) -> dict[str, Tensor]:
        """The checkpoint's tensors whose name begins with `prefix`, without it.

        Raises:
            RunError: there is no whole checkpoint.
        """
        with _open_checkpoint(self.path) as checkpoint:
            names = [name for name in checkpoint.keys() if name.startswith(prefix)]  # noqa: SIM118, not a dict
            return {name.removeprefix(prefix): checkpoint.get_tensor(name) for name in names}


def create_run(path: str | Path | None, config: Mapping[str, Any], *, model: str | None = None) -> Run:
    """Make a run directory; without a path, one of its own below `runs/`.

    Raises:
        RunError: the directory exists and is not empty, or cannot be written to.
    """
    path = _new_path(config) if path is None else Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise RunError(f"{path} exists and is not empty; choose another --out, or --resume the run in it")
        write_json(path / CONFIG, {**environment(), **config})
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
    return Run(path, model=model)


def newest_run(folder: str | Path = RUNS, *, model: str | None = None, data_path: str | Path | None = None) -> Run:
    """The run below `folder` that was created last and has a checkpoint; `model` and `data_path` as of `Run`.

    Raises:
        RunError: there is none.
    """
    runs = []
    for checkpoint in Path(folder).glob(f"*/{CHECKPOINT}"):
        with suppress(RunError):  # somebody else's directory
            runs.append(Run(checkpoint.parent, model=model, data_path=data_path))
    if not runs:
        raise RunError(f"there is no run below {folder}/; train one with lctprune train resnet, or give its directory")
    return max(runs, key=_created)


def _created(run: Run) -> float:
    """In seconds since 1970; 0 where it is not known."""
    try:
        return datetime.datetime.fromisoformat(run.config["created"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


@contextmanager
def of_this_version(run: Run, *errors: type[Exception], remedy: str = "train it again") -> Iterator[None]:
    """Settings and weights of another version are refused in a few words."""
    try:
        yield
    except errors as error:
        reason = textwrap.shorten(str(error), MOST_OF_REASON, placeholder=" ...")
        raise RunError(f"{run.path} does not fit this version of lctprune ({reason}); {remedy}") from error


def _new_path(config: Mapping[str, Any]) -> Path:
    network, data = config.get("network"), config.get("data")
    model = re.sub(r"[^\w.-]+", "-", network["model"]) if network else "network"
    name = Path(data["config"]["name"]).resolve().name if data else "data"
    stem = f"{model}-{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    paths = (RUNS / (stem if count == 1 else f"{stem}-{count}") for count in range(1, 1000))
    return next(path for path in paths if not path.exists())


def _open_checkpoint(path: Path) -> Any:
    try:
        return safetensors.safe_open(path / CHECKPOINT, framework="pt")
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} has no readable {CHECKPOINT} (no epoch was finished?); train it again") from error
