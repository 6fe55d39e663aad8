"""The run directory: what training writes, and what is read back. Weights are safetensors; nothing here is a pickle.

config.json              every setting as resolved, the command, versions, machine
metrics.csv              one row per epoch
checkpoint.safetensors   weights and optimiser states after the last whole epoch or step, and the rows of metrics.csv
best.safetensors         with `keep` best: weights after the best epoch on the validation split
"""

from __future__ import annotations

import datetime
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from lctprune.config.checkpoint import Header
from lctprune.config.history import Row, continued, from_csv, to_csv, to_history
from lctprune.config.network import is_own_function
from lctprune.config.reading import FORMAT
from lctprune.config.run import CONFIG, RUNS, RunConfig
from lctprune.data.dataset import Data, data_record, recorded_statistics
from lctprune.data.load import load_data, location, relocated
from lctprune.errors import DataWarning, LctpruneError, RunError, RunWarning
from lctprune.run_files import (
    BEST,
    CHECKPOINT,
    METRICS,
    NETWORK_PREFIX,
    Checkpoint,
    kept_file,
    read_checkpoint,
    read_config,
    read_header,
    read_metrics,
    read_tensors,
    require_no_lost_checkpoint,
)
from lctprune.utils.environment import environment
from lctprune.utils.files import read_regular, remove_leftovers, require_writable, write_atomically, write_json
from lctprune.utils.locking import locked
from lctprune.utils.names import require_utf8, shell_word
from lctprune.utils.own_code import PATH, path_needed
from lctprune.utils.tensor_files import write_tensors

MAX_VALUE_LENGTH = 80  # characters of a value in a message
ANOTHER = "choose another `run_dir`"


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
        partial: whether damaged runs that were added to it are left out; otherwise they are an error.

    Raises:
        RunError: the directory is not a run.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: str | None = None,
        data_path: str | Path | None = None,
        partial: bool = False,
    ) -> None:
        self.path = Path(path)
        self.partial = partial
        self.model = model
        self.data_path = data_path
        self.config = read_config(self.path)

    def __repr__(self) -> str:
        model = self.config.network.model if self.config.network else "a network made in a program"
        epochs = f"epoch {self.epochs_done} of {self.config.training.epochs}"
        return f"Run({str(self.path)!r}: {model}, {epochs})"

    def command(self, name: str, *options: str) -> str:
        """Return a command of lctprune about this run, to copy, with the user's function and the data that it needs.

        Args:
            name: command, such as "select".
            options: further words.
        """
        network, words = self.config.network, ["lctprune", name, str(self.path), *options]
        if network is not None and is_own_function(network.model):
            words += ["--model", network.model]
        recorded = self.config.data and location(self.config.data.config)
        if self.data_path is not None and Path(self.data_path) != recorded:
            words += ["--data", str(self.data_path)]
        return " ".join([*self._path_needed, *map(shell_word, words)])

    @property
    def _path_needed(self) -> list[str]:
        """What a shell sets before a command, so that the user's function is found."""
        network = self.config.network
        folder = path_needed(network.model) if network and is_own_function(network.model) else ""
        return [f"{PATH}={shell_word(folder)}"] if folder else []

    @property
    def is_compression(self) -> bool:
        """Whether a compression by the command line began this run."""
        return self.config.command[1:2] == ("compress",)

    @property
    def compression_command(self) -> str:
        """The command by which the compression that began this run goes on, with all that it was given."""
        words = [word for word in self.config.command[1:] if word != "--resume"]
        has_place = any(word.split("=")[0] == "--out" for word in words)
        words = ["lctprune", *words, *([] if has_place else ["--out", str(self.path)]), "--resume"]
        return " ".join([*self._path_needed, *map(shell_word, words)])

    @property
    def class_count(self) -> int:
        """The number of classes; 0 in a regression, and where the data was made in a program without them."""
        return len(self.config.data.classes or ()) if self.config.data else 0

    @property
    def metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv, one per epoch; of a damaged file, those that the checkpoint has."""
        return self.read_metrics()[0]

    def read_metrics(self) -> tuple[list[dict[str, str]], str]:
        """Read the rows of metrics.csv, and check them against the checkpoint.

        Returns:
            Rows, one per epoch; and what is wrong with the file, "" if nothing is. Rows of a damaged file are those
            that the checkpoint has, without images_per_s.

        Raises:
            RunError: the file is damaged, and the checkpoint is of an earlier version, which has no rows.
        """
        return read_metrics(self.path, self.header)

    @property
    def header(self) -> Header:
        """The header of the checkpoint; that of an untrained network without a checkpoint.

        Raises:
            RunError: the checkpoint is damaged.
        """
        return read_header(self.path)

    @property
    def epochs_done(self) -> int:
        """The number of whole epochs in the checkpoint; 0 without a checkpoint."""
        return self.header.epoch

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its end."""
        return self.epochs_done >= self.config.training.epochs

    @property
    def kept_file(self) -> Path:
        """The file with the networks that the run stands for: of its best epoch with `keep` best, else of its last."""
        return kept_file(self.path, self.config.training.keep, self.header)

    def load_checkpoint(self) -> Checkpoint:
        """Read the networks that the run stands for, from `kept_file`, once.

        Raises:
            RunError: there is no whole checkpoint, or a weight is NaN.
        """
        header = self.header
        file = kept_file(self.path, self.config.training.keep, header)
        found = read_checkpoint(file)
        if file.name == CHECKPOINT and (found.epoch, found.step) != (
            header.epoch,
            header.step,
        ):  # training wrote one meanwhile
            return self.load_checkpoint()
        return found._replace(last=header.epoch)

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
            raise RunError(
                f"{self.path} was trained on data that is not in {place}; say where it is now: `data_path=PATH`"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # shown when the run was trained
            data = load_data(config, **recorded_statistics(recorded)._asdict())
        return self._require_equal(data, "samples", "classes", "fingerprint", "vocabulary")

    def require_alike(self, data: Data) -> Data:
        """Return the data, if a network of this run can be trained further on it.

        Raises:
            RunError: the data has other classes, words, columns or normalisation than the run was trained on.
        """
        return self._require_equal(data, "classes", "vocabulary", "columns", "encoding", "preprocessing", "mean", "std")

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
        """Delete parts of files that a killed process left, and restore metrics.csv if it is damaged.

        Raises:
            RunError: nothing can be written here, or the checkpoint is damaged.

        Warns:
            RunWarning: metrics.csv was damaged; its rows were restored, or are lost.
        """
        require_writable(self.path, "copy it to where you may write, and resume that")
        for name in (CHECKPOINT, BEST, METRICS):
            remove_leftovers(self.path, name)
        require_no_lost_checkpoint(self.path)
        header = self.header
        if self.config.training.keep == "best" and header.epoch and self.kept_file.name == CHECKPOINT:
            self.write_best(header.epoch, self.read_checkpoint(""))  # a killed process may not have come to that
        try:
            _, problem = self.read_metrics()
        except RunError as error:
            problem = str(error)
        if not problem:
            return
        if header.history:
            self.write_metrics(self.rows_to_continue())
            problem += "; its rows were restored from the checkpoint, without images_per_s where that is lost"
        else:
            problem += f"; the figures of these epochs are lost, and not those of the epochs after {header.epoch}"
        warnings.warn(problem, RunWarning, stacklevel=2)

    def rows_to_continue(self) -> list[Row]:
        """Return the rows of metrics.csv up to the checkpoint, for a training that goes on."""
        header = self.header
        try:
            rows = from_csv(read_regular(self.path / METRICS), self.path / METRICS)
        except (OSError, RunError):  # `prepare_to_resume` warned of it
            rows = []
        return continued(rows, header.history, header.epoch)

    def record_epochs(self, epochs: int) -> None:
        """Change the number of epochs in config.json, which then also lists what it was before.

        Raises:
            RunError: another process trains the run, or nothing can be written here.
        """
        require_writable(self.path, "copy it to where you may write, and resume that")
        with locked(self.path / CONFIG, str(self.path)):
            self._record_epochs(epochs)

    def end_at(self, epoch: int) -> None:
        """Record that training, which goes on in this process, ends early: its number of epochs becomes `epoch`.

        Raises:
            RunError: nothing can be written here.
        """
        if epoch < self.config.training.epochs:
            self._record_epochs(epoch)
            self.config = read_config(self.path)

    def _record_epochs(self, epochs: int) -> None:
        document = self.config.to_dict()
        before = [*document.get("epochs_before", []), self.config.training.epochs]
        training = {**document["training"], "epochs": epochs}
        with self._writing(CONFIG) as file:
            write_json(file, {**document, "training": training, "epochs_before": before})

    def write_metrics(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Replace metrics.csv.

        Raises:
            RunError: it cannot be written, or the run directory is gone.
        """
        with self._writing(METRICS) as file:
            write_atomically(file, to_csv(rows))

    def write_checkpoint(
        self,
        epoch: int,
        tensors: Mapping[str, Tensor],
        *,
        rows: Sequence[Row] | None = None,
        step: int = 0,
        totals: Sequence[float] = (),
    ) -> None:
        """Replace the checkpoint.

        Args:
            epoch: number of whole epochs.
            tensors: weights and optimiser states.
            rows: rows of metrics.csv, one per epoch, so that these can be restored.
            step: number of steps taken of the next epoch.
            totals: sums of the mean training losses of each exit over these steps.

        Raises:
            RunError: it cannot be written, or the run directory is gone.
        """
        history = to_history(rows) if rows is not None and len(rows) == epoch else None
        header = Header(epoch=epoch, step=step, totals=tuple(totals), history=history)
        with self._writing(CHECKPOINT) as file:
            write_tensors(file, tensors, header.to_metadata())

    def write_best(self, epoch: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace the weights of the best epoch, once they are the checkpoint; arguments and errors are its."""
        weights = {name: tensor for name, tensor in tensors.items() if name.startswith(NETWORK_PREFIX)}
        with self._writing(BEST) as file:
            write_tensors(file, weights, Header(epoch=epoch).to_metadata())

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """Give the path of a file of the run to write; an error names it."""
        if not (self.path / CONFIG).exists():
            raise RunError(
                f"{self.path / name} cannot be written: the run directory was moved or removed; if it was moved, go on "
                "in its new place"
            )
        try:
            yield self.path / name
        except OSError as error:
            raise RunError(
                f"{self.path / name} cannot be written ({error.strerror}); the file before it is unharmed"
            ) from error

    def read_checkpoint(self, prefix: str) -> dict[str, Tensor]:
        """Read the checkpoint's tensors whose name begins with `prefix`, and take the prefix off their names.

        Raises:
            RunError: there is no whole checkpoint, or a weight is NaN.
        """
        return read_tensors(self.path, prefix)


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return textwrap.shorten(text, MAX_VALUE_LENGTH) or "none"


def as_run(run: str | Path | Run, *, model: str | None = None) -> Run:
    """Return a run, opened if its directory is given.

    Args:
        run: run or its directory.
        model: name of the user's own function that built the network, if a directory is given; see `Run`.

    Raises:
        RunError: the directory is not a run.
    """
    return run if isinstance(run, Run) else Run(run, model=model)


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
        require_new(path)
        path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path, CONFIG)
        write_json(path / CONFIG, {"format_version": FORMAT, **environment(), **settings})
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); {ANOTHER}") from error
    return Run(path, model=model)


def require_new(path: Path) -> None:
    """Refuse a run directory that `create_run` would refuse, and write nothing.

    Raises:
        RunError: the directory exists and is not empty, or cannot be written to.
    """
    require_writable(path, ANOTHER)
    with suppress(FileNotFoundError):
        if any(not each.name.startswith(f".{CONFIG}.") for each in path.iterdir()):  # what a killed process left
            raise RunError(f"{path} exists and is not empty; {ANOTHER}{_going_on(path)}")


def _going_on(path: Path) -> str:
    """Say by which command the run in a directory goes on; "" if there is none that a command goes on with."""
    with suppress(LctpruneError):
        run = Run(path)
        if run.config.origin is None and run.config.network and run.config.data:
            if not run.is_finished or run.is_compression:
                return f", or go on with the run in it: {run.command('resume')}"
            longer = run.command("resume", "--epochs", str(2 * run.epochs_done))
            return f", or train the run in it longer: {longer}"
    return ""


def _new_path(config: RunConfig) -> Path:
    model = config.network.model if config.network else "network"
    name = Path(config.data.config.name).resolve().name if config.data else "data"
    stem = re.sub(r"[^\w.-]+", "-", f"{model}-{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    paths = (Path(RUNS) / (stem if count == 1 else f"{stem}-{count}") for count in range(1, 1000))
    return next(path for path in paths if not path.exists())
