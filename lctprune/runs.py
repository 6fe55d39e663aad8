"""The run directory: what training writes, and what is read back. Weights are safetensors; nothing here is a pickle.

config.json              every setting as resolved, the command, versions, machine
metrics.csv              one row per epoch
checkpoint.safetensors   weights and optimiser states after the last whole epoch
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lctprune.config.run import CONFIG, PARTS, RunConfig
from lctprune.data.dataset import Data, data_record, recorded_statistics
from lctprune.data.load import load_data, location, relocated
from lctprune.errors import DataWarning, RunError
from lctprune.utils.checkpoint import CHECKPOINT, Checkpoint, open_checkpoint, read_checkpoint
from lctprune.utils.environment import environment
from lctprune.utils.files import require_writable, write_atomically, write_json
from lctprune.utils.names import require_utf8

RUNS = Path("runs")
METRICS = "metrics.csv"
MAX_VALUE_LENGTH = 80  # characters of a value in a message


class Run:
    """A training run in its directory: settings, metrics, data and checkpoint.

    Attributes:
        config: content of config.json; the arguments are attributes, too.

    Args:
        path: run directory.
        model: name of the user's own function that built the network, `package.module:callable`. Loading a network
            executes such a function only if it is named here, whatever the directory says.
        data_path: present location of the run's data, if it has moved since training: the folder or file, or for
            torchvision's data sets the folder that they are kept in.

    Raises:
        RunError: the directory is not a run.
    """

    def __init__(self, path: str | Path, *, model: str | None = None, data_path: str | Path | None = None) -> None:
        self.path = Path(path)
        self.model = model
        self.data_path = data_path
        self.config = _read_config(self.path)

    def __repr__(self) -> str:
        model = self.config.network.model if self.config.network else "a network made in a program"
        epochs = f"epoch {self.epochs_done} of {self.config.training.epochs}"
        return f"Run({str(self.path)!r}: {model}, {epochs})"

    @property
    def metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv, one per epoch."""
        try:
            with (self.path / METRICS).open(newline="") as file:
                return list(csv.DictReader(file))
        except OSError:
            return []

    @property
    def epochs_done(self) -> int:
        """The number of epochs in the checkpoint; 0 without a checkpoint."""
        if not (self.path / CHECKPOINT).exists():
            return 0
        with open_checkpoint(self.path) as checkpoint:
            return int((checkpoint.metadata() or {}).get("epoch", 0))

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its end."""
        return self.epochs_done >= self.config.training.epochs

    def load_checkpoint(self) -> Checkpoint:
        """Read the checkpoint, once.

        Raises:
            RunError: there is no whole checkpoint.
        """
        return read_checkpoint(self.path)

    def load_data(self) -> Data:
        """Load the data set that the run was trained on, with the same splits and normalisation.

        Raises:
            RunError: the run was trained on data made in a program, or by another version; or the data has changed
                since, or is gone.
            ConfigError: `data_path` is given for data that comes with lctprune.
            DataError: the data cannot be read.
        """
        recorded = self.config.data
        if recorded is None:
            raise RunError(
                f"{self.path} was trained on data made in a program; evaluate it there with lct.evaluate"
                f"{', and give the data to lct.densify and lct.finetune' if self.config.network else ''}"
            )
        self.config.require_known("data")
        config = recorded.config if self.data_path is None else relocated(recorded.config, self.data_path)
        place = location(config)
        if place is not None and place.is_absolute() and not place.exists():
            raise RunError(f"{self.path} was trained on data that is not in {place}; say where it is now: --data PATH")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # shown when the run was trained
            data = load_data(config, **recorded_statistics(recorded)._asdict())
        return self._require_equal(data, "samples", "classes", "fingerprint", "vocabulary")

    def require_alike(self, data: Data) -> Data:
        """Return the data, if a network of this run can be trained further on it.

        Raises:
            RunError: the data has other classes, words, columns or normalisation than the run was trained on.
        """
        return self._require_equal(data, "classes", "vocabulary", "columns", "preprocessing", "mean", "std")

    def _require_equal(self, data: Data, *fields: str) -> Data:
        for field, was, now in self.differences(data, *fields):
            raise RunError(f"the data has changed since {self.path} was trained: {field} was {was}, is {now}")
        return data

    def differences(self, data: Data, *fields: str) -> Iterator[tuple[str, str, str]]:
        """Compare data with what the run was trained on, as far as both were recorded.

        Args:
            data: data to compare; data made in a program has no record, and so no differences.
            fields: names of fields of `DataRecord`.

        Yields:
            Name, recorded value and present value of each field that differs, for messages.
        """
        recorded, now = self.config.data, data_record(data)
        for field in fields if recorded and now else ():
            was, is_now = getattr(recorded, field), getattr(now, field)
            if was is not None and was != is_now:
                yield field, _shown(was), _shown(is_now)

    def prepare_to_resume(self) -> None:
        """Delete parts of files that a killed process left; raise a `RunError` if nothing can be written here."""
        require_writable(self.path, "copy it to where you may write, and resume that")
        for name in (CHECKPOINT, METRICS):
            for leftover in self.path.glob(f".{name}.*"):
                leftover.unlink(missing_ok=True)

    def record_epochs(self, epochs: int) -> None:
        """Change the number of epochs in config.json, which then also lists what it was before."""
        document = self.config.to_dict()
        before = [*document.get("epochs_before", []), self.config.training.epochs]
        training = {**document["training"], "epochs": epochs}
        write_json(self.path / CONFIG, {**document, "training": training, "epochs_before": before})

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
        """Read the checkpoint's tensors whose name begins with `prefix`, and take the prefix off their names.

        Raises:
            RunError: there is no whole checkpoint.
        """
        with open_checkpoint(self.path) as checkpoint:
            names = [name for name in checkpoint.keys() if name.startswith(prefix)]  # noqa: SIM118, not a dict
            return {name.removeprefix(prefix): checkpoint.get_tensor(name) for name in names}


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return textwrap.shorten(text, MAX_VALUE_LENGTH) or "none"


def create_run(path: str | Path | None, settings: Mapping[str, Any], *, model: str | None = None) -> Run:
    """Make a run directory.

    Args:
        path: new or empty directory; None for a new one below `runs/`, named after the model, the data and the time.
        settings: content of config.json, from `run_settings`.
        model: name of the user's own function that built the network; see `Run`.

    Raises:
        RunError: the directory exists and is not empty, or cannot be written to. (ConfigError: it is not UTF-8.)
    """
    path = _new_path(RunConfig(settings)) if path is None else Path(path)
    require_utf8(str(path), "the run directory")
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise RunError(f"{path} exists and is not empty; choose another --out, or --resume the run in it")
        write_json(path / CONFIG, {**environment(), **settings})
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
    return Run(path, model=model)


def _read_config(path: Path) -> RunConfig:
    try:
        document = json.loads((path / CONFIG).read_text())
        missing = [part for part in PARTS if part not in {**document}]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path} is not a run directory (it has no readable {CONFIG}); give one that lctprune train made"
        ) from error
    if missing:
        raise RunError(
            f"{path} is not a run directory (its {CONFIG} has no {', no '.join(missing)}); give one that lctprune "
            "train made"
        )
    return RunConfig(document, path)


def _new_path(config: RunConfig) -> Path:
    model = config.network.model if config.network else "network"
    name = Path(config.data.config.name).resolve().name if config.data else "data"
    stem = re.sub(r"[^\w.-]+", "-", f"{model}-{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    paths = (RUNS / (stem if count == 1 else f"{stem}-{count}") for count in range(1, 1000))
    return next(path for path in paths if not path.exists())
