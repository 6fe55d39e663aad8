"""Read candidates.json back: as a stranger's file, and checked against the networks that it is of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.config.metric import METRIC_NAMES
from lctprune.config.network import is_own_function
from lctprune.config.reading import from_json, parse_object
from lctprune.config.runtime import AUTO_RUNTIME, FULL, REDUCED
from lctprune.errors import ConfigError, NetworkWarning, ReducedNote, RunError, RunWarning
from lctprune.measure.answers import Answers
from lctprune.measure.candidates import Candidate
from lctprune.measure.costs import count_known_flops, count_parameters, size_bytes
from lctprune.measure.recall import ClassRecall
from lctprune.measure.runtimes import FORMATS
from lctprune.utils.files import read_regular
from lctprune.utils.names import shell_word
from lctprune.workflows.loading import LoadedRun, require_recipe
from lctprune.workflows.members import Member
from lctprune.workflows.recorded_answers import RecordedAnswers

CANDIDATES = "candidates.json"
LARGEST = 2**62  # of counts in a table
LONGEST_MS = 1e12
PRECISIONS = ("float32", "float64", "float16", "bfloat16", *REDUCED)
MOST_INPUTS = 2**28  # numbers in the example that FLOPs were counted on


@dataclass(frozen=True, kw_only=True)
class CandidateRecord(Candidate):
    """A candidate as candidates.json has it: null where JSON has no number."""

    accuracy: float | None  # type: ignore[assignment]
    loss: float | None  # type: ignore[assignment]
    answers: None = None  # which the file has beside its candidates

    def __post_init__(self) -> None:
        counts = ("exit", "flops", "macs", "parameters", "size_bytes", "samples", "latency_batch", "latency_threads")
        costs = ("latency_ms", "latency_p5_ms", "latency_p95_ms", "accuracy_error")
        limits = {**dict.fromkeys(counts, LARGEST), **dict.fromkeys(costs, LONGEST_MS), "rmse": math.inf}
        for name, limit in limits.items():
            lowest = 1 if name in ("samples", "latency_batch", "latency_threads") else 0
            if (value := getattr(self, name)) is not None and not lowest <= value <= limit:
                raise ConfigError(f"{name} is {value}; it must be between {lowest} and {limit:g}")
        if self.latency_runtime not in FORMATS:
            raise ConfigError(f"latency_runtime is {self.latency_runtime!r}; it must be one of {', '.join(FORMATS)}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}")
        if self.metric not in METRIC_NAMES.values():
            raise ConfigError(f"metric is {self.metric!r}; it must be one of {', '.join(METRIC_NAMES.values())}")
        least = -math.inf if self.metric in ("R2", "loss") else 0
        scores = {"accuracy": self.accuracy} | ({} if self.metric == "loss" else {"score": self.score})
        scores["most_frequent"] = self.most_frequent
        for name, value in scores.items():
            if value is not None and not least <= value <= 1:
                raise ConfigError(f"{name} is {value}; it must be between {least} and 1")
        if self.flops is not None and self.macs != self.flops // 2:
            raise ConfigError(f"flops are {self.flops} and macs {self.macs}; macs must be half as many")

    def candidate(self, answers: Answers | None) -> Candidate:
        """Return the candidate, with nan for what JSON has no number for."""
        values = dict(vars(self)) | {"answers": answers}
        for name in ("accuracy", "loss"):  # an accuracy of targets without classes, a loss that is not finite
            values[name] = math.nan if values[name] is None else values[name]
        return Candidate(**values)


@dataclass(frozen=True, kw_only=True)
class _Recall:
    """The recall of each class as candidates.json has it."""

    class_samples: tuple[int, ...]
    exits: dict[str, tuple[float | None, ...]]

    def __post_init__(self) -> None:
        for exit, values in self.exits.items():
            if not (exit.isascii() and exit.isdigit() and len(exit) < 9):
                raise ConfigError(f"exits has {exit[:20]!r}; it must have numbers of exits")
            if len(values) != len(self.class_samples):
                raise ConfigError(f"exits.{exit} has {len(values)} numbers; it must have {len(self.class_samples)}")
            if any(value is not None and not 0 <= value <= 1 for value in values):
                raise ConfigError(f"exits.{exit} has a number that is not between 0 and 1")
        if any(not 0 <= count <= LARGEST for count in self.class_samples):
            raise ConfigError("class_samples has a number that is no count")


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The content of candidates.json.

    Attributes:
        conditions: checkpoints and machine that the figures are of.
        candidates: measured candidates, at least one.
        recall: recall of each class; None where it was not measured.
        example_shape: shape of the input that costs were measured on; None where an earlier version did not record it.
        answers: samples that each candidate classified correctly; None where that was not recorded.
        left_out: notes on exits that have no form in a precision.
    """

    conditions: dict[str, Any]
    candidates: tuple[CandidateRecord, ...]
    recall: _Recall | None = None
    example_shape: tuple[int, ...] | None = None
    answers: RecordedAnswers | None = None
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ConfigError("candidates is empty; it must have one candidate per exit")
        if len({each.metric for each in self.candidates}) > 1:
            raise ConfigError("candidates are compared by several metrics; it must be one")
        for each in self.candidates:
            if self.answers is not None and (wrong := self.answers.contradiction(each.key, each.accuracy)):
                raise ConfigError(wrong)


def read_measurements(path: Path) -> Measurements | None:
    """Read candidates.json; None if there is none.

    Raises:
        RunError: it is damaged; the message names the field.
    """
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror})") from error
    remedy = f"this measures anew: lctprune evaluate {shell_word(path.parent)}"
    return from_json(Measurements, parse_object(content, path, remedy=remedy), "", file=path, remedy=remedy)


def read_recall(path: Path) -> ClassRecall | None:
    """Read the recall of each class from candidates.json; None if an earlier version did not record it.

    Raises:
        RunError: the file is damaged; the message names the field.
    """
    found = read_measurements(path)
    if found is None or found.recall is None:
        return None
    exits = {int(exit): list(values) for exit, values in found.recall.exits.items()}
    return ClassRecall(list(found.recall.class_samples), exits)


def read_candidates(
    path: Path, conditions: Mapping[str, object], members: Sequence[Member], loaded: LoadedRun, *, any_latency: bool
) -> list[Candidate]:
    """Read measurements of the present checkpoint; give none if there are none that hold.

    Args:
        path: candidates.json of a run.
        conditions: checkpoints and machine now.
        members: networks of the run.
        loaded: the run with its networks.
        any_latency: whether latencies may be of other conditions.

    Warns:
        RunWarning: the file is damaged, or its costs are not those of the networks.
    """
    try:
        found = read_measurements(path)
    except RunError as error:
        warnings.warn(f"{error}: all is measured again", RunWarning, stacklevel=3)
        return []
    if found is None:
        return []
    compared = ["checkpoint_sha256", "added_sha256"] if any_latency else [*conditions]
    given = {"runtime": "torchscript", "precision": FULL} | found.conditions  # earlier versions knew no others
    if any(given.get(name) != conditions[name] for name in compared) or not _has_precisions(found, given, conditions):
        return []
    for note in found.left_out if conditions["precision"] != FULL else ():
        warnings.warn(note, ReducedNote, stacklevel=3)
    answers = found.answers.by_key() if found.answers else {}
    candidates = [record.candidate(answers.get(str(record.key))) for record in found.candidates]
    if problem := _contradiction(candidates, found.example_shape, members, loaded):
        warnings.warn(f"{path}: {problem}: all is measured again", RunWarning, stacklevel=3)
        return []
    return candidates


def _has_precisions(found: Measurements, given: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    """Tell whether candidates in reduced precisions were measured as they are wanted: scores are of their files."""
    names = str(wanted["precision"])
    if names == FULL:
        return True
    runtime = found.candidates[0].latency_runtime
    is_same = wanted["runtime"] in (AUTO_RUNTIME, runtime)
    return is_same and set(names.split(",")) <= set(str(given["precision"]).split(","))


def _contradiction(
    candidates: Sequence[Candidate], shape: tuple[int, ...] | None, members: Sequence[Member], loaded: LoadedRun
) -> str:
    """Say which figure is not that of the network; "" if none is, or if its code may not be executed."""
    by_number = {member.number: member for member in members}
    names = [(each.key, each.name, each.origin) for each in candidates]
    full: list[tuple[int | str, str, str]] = [(each.number, each.name, each.origin) for each in members]
    reduced = [(f"{number}-{each}", f"{name}, {each}", origin) for number, name, origin in full for each in REDUCED]
    if len(set(names)) < len(names) or not {*full} <= {*names} <= {*full, *reduced}:
        return "it has other networks than the run"
    recipe = require_recipe(loaded.run)
    if is_own_function(recipe.model) and recipe.model != loaded.run.model:
        return ""
    if problem := shape_problem(shape):
        return problem
    example = None
    if shape is not None:
        example = torch.ones(shape, dtype=torch.long if recipe.vocabulary is not None else torch.float)
    for each in candidates:
        member = by_number[each.exit]
        if problem := cost_contradiction(each, loaded.network(member.run).subnetwork(member.exit), example):
            return problem
    return ""


def shape_problem(shape: Sequence[int] | None) -> str:
    """Say that no input has a shape that a file gives for an example; "" if one may have it."""
    if shape is not None and (math.prod(shape) > MOST_INPUTS or min(shape, default=0) < 1):
        return f"example_shape is {list(shape)}, which no input has"
    return ""


def cost_contradiction(candidate: Candidate, network: nn.Module, example: Tensor | None) -> str:
    """Say which cost of a candidate is not that of its network; "" if none is.

    Args:
        candidate: candidate as a file has it.
        network: its network in full precision.
        example: input that its FLOPs were counted on; None where it is not known, or FLOPs are not compared.
    """
    now: dict[str, int | None] = {"parameters": count_parameters(network), "size_bytes": size_bytes(network)}
    if example is not None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NetworkWarning)
                now["flops"] = count_known_flops(network, example).total
        except Exception:  # whatever a network raises on an input of another shape
            return f"{candidate.name} does not run on inputs of the shape {list(example.shape)}"
    if candidate.is_reduced:  # its size is that of a file
        del now["size_bytes"]
    for name, value in now.items():
        if getattr(candidate, name) != value:
            return f"{name} of {candidate.name} is {getattr(candidate, name)}, and the network's is {value}"
    return ""
