"""What `ensemble` and `progressive` found, recorded and read back.

ensemble/candidates.json     every ensemble that no other one beats
progressive/candidates.json  the progressive network, on the validation samples that it was not fitted on
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lctprune.config.combined import ENSEMBLE, PROGRESSIVE
from lctprune.config.network import is_own_function
from lctprune.config.reading import FORMAT, from_json, parse_object
from lctprune.ensembles import EnsembleNetwork
from lctprune.errors import ConfigError, NetworkError, RunError, RunWarning
from lctprune.measure.candidates import Candidate
from lctprune.measure.exit_fitting import Goal
from lctprune.measure.parts import Part
from lctprune.network import LocalCriticNetwork
from lctprune.progressive import ProgressiveNetwork
from lctprune.utils.environment import machine
from lctprune.utils.files import read_regular, write_json
from lctprune.workflows.loading import LoadedRun, require_recipe
from lctprune.workflows.measurements import CANDIDATES, CandidateRecord, cost_contradiction, shape_problem
from lctprune.workflows.members import exit_names, next_number
from lctprune.workflows.model_card import candidate_record
from lctprune.workflows.recorded_answers import MOST_SAMPLES, RecordedAnswers, answers_record


@dataclass(frozen=True, kw_only=True)
class Several:
    """How several exits answer together: with weights, or with thresholds.

    Attributes:
        exits: numbers of the exits, in ascending order.
        weights: weight of each exit of an ensemble.
        is_fitted: whether the weights were fitted; otherwise they are all the same.
        thresholds: threshold of each exit but the last of a progressive network.
        temperatures: temperature of each exit of a progressive network.
        goal: goal that the thresholds were fitted for.
        fitted_on: number of samples that they were fitted on.
    """

    exits: tuple[int, ...]
    weights: tuple[float, ...] = ()
    is_fitted: bool = False
    thresholds: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()
    goal: Goal | None = None
    fitted_on: int = 0

    def network(self, of: LocalCriticNetwork) -> nn.Module:
        """Build the network of the exits.

        Raises:
            NetworkError: it has no such exits, or the numbers do not fit them.
        """
        if self.goal is None:
            return EnsembleNetwork(of, self.exits, self.weights).eval()
        return ProgressiveNetwork(of, self.exits, self.thresholds, self.temperatures).eval()


class CombinedNetwork(NamedTuple):
    """A network of several exits that was recorded in a run.

    Attributes:
        candidate: its accuracy and its costs.
        several: how the exits answer together.
        part: validation samples that it was measured on; None for all.
        conditions: what its latency was measured under.
        main_ms: latency of the main network, measured in turns with it; None where that is not known.
    """

    candidate: Candidate
    several: Several
    part: Part | None
    conditions: Mapping[str, Any]
    main_ms: float | None

    @property
    def folder(self) -> str:
        """Name of a folder for its files: "ensemble-0-2", of the exits 0 and 2, or "progressive"."""
        return "-".join([ENSEMBLE, *map(str, self.several.exits)]) if self.part is None else PROGRESSIVE


@dataclass(frozen=True, kw_only=True)
class _PartRecord:
    """Some of the samples of the validation split."""

    samples: int
    targets_sha256: str
    taken: str

    def part(self, targets: str) -> Part:
        return Part(self.samples, self.targets_sha256, base64.b64decode(self.taken), targets)


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """The content of such a file."""

    checkpoint_sha256: str
    conditions: dict[str, Any]
    main_latency_ms: float | None = None
    example_shape: tuple[int, ...]
    candidates: tuple[CandidateRecord, ...]
    networks: tuple[Several, ...]
    answers: RecordedAnswers
    part: _PartRecord | None = None

    def __post_init__(self) -> None:
        if not len(self.candidates) == len(self.networks) > 0:
            raise ConfigError(f"networks has {len(self.networks)} entries; it must have one per candidate")
        for each in self.candidates:
            if each.metric != "accuracy" or each.is_reduced:
                raise ConfigError(f"candidates has {each.name[:60]!r}, which is not compared by accuracy alone")
            if wrong := self.answers.contradiction(each.key, each.accuracy):
                raise ConfigError(wrong)
        if problem := shape_problem(self.example_shape):
            raise ConfigError(problem)
        if self.part is not None:
            _require_bits(self.part, self.answers.samples)


def _require_bits(part: _PartRecord, samples: int) -> None:
    try:
        bits = base64.b64decode(part.taken, validate=True)
    except (binascii.Error, ValueError):
        bits = b""
    is_whole = 1 <= part.samples <= MOST_SAMPLES and len(bits) == (part.samples + 7) // 8
    unused = -part.samples % 8
    if not is_whole or bits[-1] & ((1 << unused) - 1) or int.from_bytes(bits).bit_count() != samples:
        raise ConfigError(f"part.taken is not base64 of {part.samples} bits, of which {samples} are 1")


def write_combined(
    loaded: LoadedRun,
    folder: Path,
    found: Sequence[tuple[Candidate, Several]],
    *,
    main_ms: float | None,
    part: Part | None = None,
) -> None:
    """Record networks of several exits, so that `select` has them as candidates.

    Args:
        loaded: the run.
        folder: output folder.
        found: networks, measured on the validation split.
        main_ms: latency of the main network, measured in turns with theirs.
        part: samples of it that they were measured on; by default all.
    """
    candidates = [each for each, _ in found]
    document = {
        "format_version": FORMAT,
        "split": "validation",
        "checkpoint_sha256": loaded.checkpoint().sha256,
        "conditions": machine(),
        "main_latency_ms": main_ms,
        "example_shape": list(loaded.data.example.shape),
        "candidates": [candidate_record(each) for each in candidates],
        "networks": [dataclasses.asdict(several) for _, several in found],
        "answers": answers_record(candidates),
        "part": part
        and {
            "samples": part.samples,
            "targets_sha256": part.whole,
            "taken": base64.b64encode(part.taken).decode(),
            "encoding": "base64 of one bit per validation sample, 1 where it belongs to the part",
        },
    }
    write_json(folder / CANDIDATES, document)


def combined_networks(loaded: LoadedRun) -> list[CombinedNetwork]:
    """Read the ensembles of a run's present checkpoint, and then its progressive network, with numbers of their own.

    Numbers follow those of the networks that were added to the run, and change when further ones are added.

    Warns:
        RunWarning: a file is damaged, of another checkpoint, or not of the run's network.
    """
    found = [*_read(loaded, ENSEMBLE), *_read(loaded, PROGRESSIVE)]
    return [
        each._replace(candidate=dataclasses.replace(each.candidate, exit=number))
        for number, each in enumerate(found, next_number(loaded) if found else 0)
    ]


def _read(loaded: LoadedRun, kind: str) -> list[CombinedNetwork]:
    file, remedy = loaded.run.path / kind / CANDIDATES, f"lctprune {kind} makes it anew"
    try:
        document = parse_object(read_regular(file), file, remedy=remedy)
        recorded = from_json(_Recorded, document, "", file=file, remedy=remedy)
        if recorded.checkpoint_sha256 != loaded.checkpoint().sha256:
            raise RunError(f"{file} is of an earlier checkpoint: {remedy}")
        if problem := _contradiction(loaded, kind, recorded):
            raise RunError(f"{file}: {problem}: {remedy}")
    except OSError:
        return []
    except RunError as error:
        warnings.warn(f"{error}; nothing in it is a candidate", RunWarning, stacklevel=4)
        return []
    names, answers = exit_names(loaded.run), recorded.answers.by_key()
    part = recorded.part.part(recorded.answers.targets_sha256) if recorded.part else None
    found = []
    for record, several in zip(recorded.candidates, recorded.networks, strict=True):
        candidate = dataclasses.replace(
            record.candidate(answers[str(record.key)]),
            name=PROGRESSIVE if kind == PROGRESSIVE else " + ".join(names[exit] for exit in several.exits),
            origin=_origin(several),
            combined=kind,
        )
        found.append(CombinedNetwork(candidate, several, part, recorded.conditions, recorded.main_latency_ms))
    return found


def _origin(several: Several) -> str:
    if several.goal is not None:
        return "samples leave early: mean FLOPs and latency per sample"
    return f"ensemble, {'weights fitted on validation' if several.is_fitted else 'plain sum'}"


def _contradiction(loaded: LoadedRun, kind: str, recorded: _Recorded) -> str:
    """Say what is not as the run's network has it; "" if nothing is, or if its code may not be executed."""
    recipe, exits = require_recipe(loaded.run), len(exit_names(loaded.run))
    is_progressive = kind == PROGRESSIVE
    for each in recorded.networks:
        if (each.goal is not None) != is_progressive or not all(0 <= exit < exits for exit in each.exits):
            return "it has other networks than the run"
        if not is_progressive and not each.is_fitted and len(set(each.weights)) != 1:
            return "it has a plain sum of unlike weights"
    if is_progressive != (recorded.part is not None) or (is_progressive and len(recorded.networks) > 1):
        return "it is not of one progressive network on a part of validation" if is_progressive else "it is of a part"
    if is_own_function(recipe.model) and recipe.model != loaded.run.model:
        return ""
    dtype = torch.long if recipe.vocabulary is not None else torch.float
    example = None if is_progressive else torch.ones(recorded.example_shape, dtype=dtype)  # where FLOPs are no mean
    for record, several in zip(recorded.candidates, recorded.networks, strict=True):
        try:
            network = several.network(loaded.network())
        except NetworkError as error:
            return str(error)
        if problem := cost_contradiction(record, network, example):
            return problem
    return ""
