"""The record of a run: config.json, part by part, as typed values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from lctprune.config.data import DataConfig
from lctprune.config.given import Given
from lctprune.config.images import MOST_PIXELS, ImagePreprocessing
from lctprune.config.network import NetworkConfig
from lctprune.config.reading import from_json, unknown_fields
from lctprune.config.table import TableEncoding
from lctprune.config.training import ResolvedTrainConfig, TrainConfig
from lctprune.errors import ConfigError, RunError

CONFIG = "config.json"
RUNS = "runs"  # folder of the run directories, by default
MOST_EXITS = 10**6
PARTS = ("network", "data", "training")  # that every run has
Part = Literal["network", "data", "training", "origin", "given"]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class StatisticsRecord:
    """Mean and standard deviation by which values were normalised.

    Attributes:
        mean: mean of each channel or column.
        std: standard deviation of each channel or column.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_statistics(self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """Record of the data that a run was trained on.

    Attributes:
        config: settings that the data was loaded with.
        classes: names of the classes, in the order of the labels; empty in a regression.
        samples: number of samples per split.
        fingerprint: hash of the data; None for data that comes with lctprune.
        resize: what earlier versions recorded in place of `preprocessing`: the length in pixels to which the shorter
            side of images was resized. It becomes a `preprocessing` without orientation and background.
        mean: mean of each channel or column of the inputs; empty where inputs are not normalised.
        std: standard deviation of each channel or column of the inputs; empty where inputs are not normalised.
        vocabulary: words of a text, by their numbers; None where an earlier version did not record it.
        tokenizer: name of the rule that splits a text into tokens; None for data that is no text, and for the rule of
            earlier versions, which did not record it.
        columns: names of the numbers that a table's rows become; None where an earlier version did not record them.
        encoding: how the cells of a table become numbers; None for data that is no table, or one of numbers.
        target: normalisation of a regression's target.
        preprocessing: steps from an image file to pixels; None for data that is not images.
    """

    config: DataConfig
    classes: tuple[str, ...]
    samples: Mapping[str, int]
    fingerprint: str | None = None
    resize: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    vocabulary: tuple[str, ...] | None = None
    tokenizer: str | None = None
    columns: tuple[str, ...] | None = None
    encoding: TableEncoding | None = None
    target: StatisticsRecord | None = None
    preprocessing: ImagePreprocessing | None = None

    def __post_init__(self) -> None:
        _require_statistics(self.mean, self.std)
        if any(not 0 <= count < 2**62 for count in self.samples.values()):
            raise ConfigError(f"samples is {dict(self.samples)}; a number of samples must be 0 or more")
        if self.resize is not None and not 1 <= self.resize <= MOST_PIXELS:
            raise ConfigError(f"resize is {self.resize}; it must be between 1 and {MOST_PIXELS}")
        if self.preprocessing is None and self.resize is not None:
            earlier = ImagePreprocessing.of_earlier_version(self.resize, self.config.image_size)
            object.__setattr__(self, "preprocessing", earlier)
        object.__setattr__(self, "resize", None)


def _require_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    if len(mean) != len(std) or any(each <= 0 for each in std):
        raise ConfigError(f"mean has {len(mean)} numbers and std {len(std)}; they must be as many, and std positive")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Origin of a run that was added to another run.

    Attributes:
        checkpoint_sha256: hash of the other run's checkpoint.
        first_number: number of this run's first exit among the candidates of the other run.
        exits: description of how each exit came to be.
        distill: weight of the distance to the main network's outputs in the loss; for a fine-tuned exit only.
        views: number of passes after which batches and the main network's outputs for them repeat; None: they never do.
    """

    checkpoint_sha256: str
    first_number: int
    exits: tuple[str, ...]
    distill: float | None = None
    views: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.first_number <= MOST_EXITS:
            raise ConfigError(f"first_number is {self.first_number}; it must be between 1 and {MOST_EXITS}")
        if not self.exits:
            raise ConfigError("exits is empty; it must describe each exit")
        if self.distill is not None and not 0 <= self.distill <= 1:
            raise ConfigError(f"distill is {self.distill}; it must be between 0 and 1")
        if self.views is not None and self.views < 1:
            raise ConfigError(f"views is {self.views}; it must be at least 1")

    @property
    def next_number(self) -> int:
        """The number after that of this run's last exit."""
        return self.first_number + len(self.exits)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in config.json."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class RunConfig:
    """The content of a run's config.json.

    A part is read when it is first asked for, so that a run of another version still gives whatever this version
    understands: settings that it does not know are left out, and settings that were not recorded have their present
    defaults. `require_known` refuses the former; `to_dict` gives the content of the file as it is.

    Args:
        document: content of the file.
        path: run directory, for messages.

    Raises:
        RunError: a field is missing or has a value that cannot be used; raised when its part is read.
    """

    document: Mapping[str, Any]
    path: Path = Path()

    @cached_property
    def network(self) -> NetworkConfig | None:
        """The settings of the network; None for a network made in a program."""
        return None if self.document["network"] is None else self._read("network", NetworkConfig)

    @cached_property
    def training(self) -> TrainConfig:
        """The settings of the training, as resolved for the machine that trained."""
        recorded = self.document["training"]
        if isinstance(recorded, Mapping) and "method" not in recorded:  # an earlier version's, which had one method
            recorded = {**recorded, "method": "local-critic"}
        return from_json(TrainConfig, recorded, "training", file=self.path / CONFIG)

    @cached_property
    def data(self) -> DataRecord | None:
        """The record of the data; None for data made in a program."""
        return None if self.document["data"] is None else self._read("data", DataRecord)

    @cached_property
    def origin(self) -> Origin | None:
        """The origin of a run that was added to another one; otherwise None."""
        return self._read("origin", Origin) if "origin" in self.document else None

    @cached_property
    def given(self) -> Given | None:
        """The scores of the network that the run was given as weights; otherwise None."""
        return self._read("given", Given) if "given" in self.document else None

    @property
    def created(self) -> str:
        """The time of creation, in ISO 8601; empty where it was not recorded."""
        return self._recorded("created", str, "")

    @property
    def command(self) -> tuple[str, ...]:
        """The command that created the run; empty where that was not recorded."""
        return self._recorded("command", tuple[str, ...], ())

    @property
    def versions(self) -> Mapping[str, str]:
        """The version of each package."""
        return self._recorded("versions", dict[str, str], {})

    @property
    def machine(self) -> Mapping[str, Any]:
        """The machine that trained: platform, cpu, cores, threads, gpu."""
        return self._recorded("machine", dict[str, str | int | None], {})

    def _recorded(self, name: str, kind: type[_T], otherwise: _T) -> _T:
        value = self.document.get(name)
        return otherwise if value is None else from_json(kind, value, name, file=self.path / CONFIG)

    def require_known(self, part: Part, *, remedy: str = "train it again") -> None:
        """Refuse a part with settings that this version does not know.

        Raises:
            RunError: there are such settings.
        """
        if unknown := unknown_fields(_TYPES[part], self.document[part], part):
            raise RunError(
                f"{self.path} does not fit this version of lctprune (unknown settings: {', '.join(unknown)}); {remedy}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json."""
        return dict(self.document)

    def completed(self) -> dict[str, Any]:
        """Return the content, with present values for settings that an earlier version did not record."""
        document = self.to_dict()
        for part in PARTS:
            if document[part] is not None:
                values = json.loads(json.dumps(dataclasses.asdict(getattr(self, part))))  # lists in place of tuples
                document[part] = _completed(document[part], values)
        if document["data"]:
            document["data"]["resize"] = None  # `preprocessing` says it
        return document

    def _read(self, part: Part, kind: type[_T]) -> _T:
        return from_json(kind, self.document[part], part, file=self.path / CONFIG)


_TYPES: dict[Part, type] = {
    "network": NetworkConfig,
    "data": DataRecord,
    "training": TrainConfig,
    "origin": Origin,
    "given": Given,
}


def _completed(recorded: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the values that are missing in a record, and in the records within it."""
    within = {
        name: _completed(recorded[name], value)
        for name, value in values.items()
        if isinstance(value, Mapping) and isinstance(recorded.get(name), Mapping)
    }
    return {**values, **recorded, **within}


def run_settings(
    *,
    network: NetworkConfig | None,
    data: DataRecord | None,
    training: ResolvedTrainConfig,
    origin: Origin | None = None,
    given: Given | None = None,
) -> dict[str, Any]:
    """Return what config.json says of a new run, except when, how and on what machine it was created.

    Args:
        network: settings of the network; None for a network made in a program.
        data: record of the data; None for data made in a program.
        training: settings of the training.
        origin: origin of a run that is added to another one.
        given: scores of the network that the run was given.
    """
    settings: dict[str, Any] = {
        "network": network and network.to_dict(),
        "data": data and dataclasses.asdict(data),
        "training": training.to_dict(),
    }
    if origin is not None:
        settings["origin"] = origin.to_dict()
    if given is not None:
        settings["given"] = dataclasses.asdict(given)
    read_back: dict[str, Any] = json.loads(json.dumps(settings))  # lists in place of tuples
    return read_back
