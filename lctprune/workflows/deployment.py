"""From a finished run to a file that can be deployed: measure the exits, and export one with all that its user needs.

- candidates.json: what every exit was measured to be, for the checkpoint whose hash it names
- selected/model.pt: the exported network that was chosen under a budget
- selected/model.json: how to feed it, how good it is, what it costs
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lctprune.data.dataset import Data
from lctprune.exporting import export
from lctprune.measure.candidates import MAIN, Candidate, ScoredExit, measure_costs
from lctprune.measure.scores import score_exits, score_networks
from lctprune.runs import Run
from lctprune.utils.environment import environment, machine
from lctprune.utils.files import sha256, write_json
from lctprune.workflows.loading import load_network
from lctprune.workflows.members import Member, checkpoint_hash, family, member_of
from lctprune.workflows.model_card import candidate_record, describe

CANDIDATES, SELECTED, DESCRIPTION = "candidates.json", "selected", "model.json"
COMPARED_SAMPLES = 32  # that an exported file is compared on
SUFFIXES = {"torchscript": ".pt"}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """An exported exit.

    Attributes:
        model: the exported file.
        description: model.json beside it.
        test_accuracy, main_test_accuracy: of this exit and of the main network on the test split, 0 to 1; None where
            they were not measured.
        test_samples: size of the test split.
    """

    model: Path
    description: Path
    test_accuracy: float | None = None
    main_test_accuracy: float | None = None
    test_samples: int | None = None


def measure_run(run: Run, *, again: bool = False, latency_batch: int = 1, any_latency: bool = False) -> list[Candidate]:
    """The run's candidates, measured on its validation split and written to candidates.json.

    What was measured before is read back, as long as the checkpoint, the latency's batch size and the machine with its
    number of threads are the same.

    Args:
        run: with at least one finished epoch.
        again: measure even so.
        latency_batch: samples in the call whose latency is measured.
        any_latency: what was measured before under other conditions, but on this checkpoint, will do.

    Raises:
        RunError, DataError: the run's network or data cannot be loaded.
    """
    path, members = run.path / CANDIDATES, family(run)
    added = {member.run.path: checkpoint_hash(member.run) for member in members if member.run is not run}
    conditions = {
        "checkpoint_sha256": checkpoint_hash(run),
        "added_sha256": {str(below.relative_to(run.path)): digest for below, digest in added.items()},
        "latency_batch": latency_batch,
        "device": "cpu",
        **machine(),
    }
    known = [] if again else _read_candidates(path, conditions, any_latency)
    if known:
        return known
    data = run.load_data()
    candidates = measure_costs(_scored(members, data), data.example, latency_batch=latency_batch)
    if added:  # by what they cost, the main network last
        candidates.sort(key=lambda each: (each.name == MAIN, math.inf if each.flops is None else each.flops))
    document = {
        "split": "validation",
        "units": {
            "flops": "per sample; 1 FLOP is one multiply or one add, so flops = 2 * macs",
            "latency_ms": "median of one call, in milliseconds",
            "size_bytes": "parameters and buffers",
        },
        "example_shape": list(data.example.shape),
        "conditions": conditions,
        "candidates": [candidate_record(candidate) for candidate in candidates],
    }
    write_json(path, document)
    return candidates


def _scored(members: Sequence[Member], data: Data) -> list[ScoredExit]:
    """All networks of a family, those of one run in one pass over the validation split."""
    exits = []
    for _, together in itertools.groupby(members, key=lambda member: member.run.path):
        group = list(together)
        network = load_network(group[0].run)
        scores = score_exits(network, data.val)
        exits += [
            ScoredExit(each.number, each.name, network.subnetwork(each.exit), scores, each.exit, each.origin)
            for each in group
        ]
    return exits


def deploy(
    run: Run,
    candidates: Sequence[Candidate],
    exit: int,
    folder: Path,
    *,
    format: str = "torchscript",
    budget: Mapping[str, float] | None = None,
    measure_test: bool = False,
) -> Deployment:
    """Export one exit into `folder`.

    Args:
        run: where the network comes from.
        candidates: all of the run's, for the description.
        exit: which to export.
        folder: gets `model.pt` and `model.json`.
        format: of the file.
        budget: limits that led to this exit, for the description.
        measure_test: measure it and the main network on the test split, which nothing else reads: for an exit that has
            been chosen, not for choosing one.

    Raises:
        NetworkError: there is no such exit.
        ExportError: the file would not do what the network does, or cannot be written.
    """
    member, data = member_of(run, exit), run.load_data()
    subnetwork = load_network(member.run).subnetwork(member.exit)
    samples, _ = next(data.val.batches(COMPARED_SAMPLES))
    scores = None
    if measure_test:  # first: it may find a file that is broken
        scores = score_networks([subnetwork, load_network(run)], data.test)
    model = export(subnetwork, samples, folder / f"model{SUFFIXES.get(format, '')}", format=format)
    description = folder / DESCRIPTION
    record = {
        **describe(run, candidates, exit, scores),
        "file": model.name,
        "format": format,
        "sha256": sha256(model),
        "budget": dict(budget or {}),
        "trained_with": {"run": run.path.resolve().name, **_trained_with(run, member)},
        **environment(),
    }
    write_json(description, record)
    return Deployment(
        model=model,
        description=description,
        test_accuracy=scores and scores.accuracy[0],
        main_test_accuracy=scores and scores.accuracy[1],
        test_samples=scores and scores.samples,
    )


def _trained_with(run: Run, member: Member) -> dict[str, Any]:
    """The run's checkpoint, and where the network was added to it, also that one's; wherever the run stands."""
    record = {"checkpoint_sha256": checkpoint_hash(run)}
    if member.run is run:
        return record
    added = {"run": str(member.run.path.relative_to(run.path)), "checkpoint_sha256": checkpoint_hash(member.run)}
    return {**record, "added": added}


def deployment_record(deployment: Deployment) -> dict[str, Any]:
    """A deployment as plain JSON values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(deployment).items()}


def read_selection(run: Run) -> dict[str, Any] | None:
    """What `selected/model.json` says, if that network is the run's still, from its present checkpoint; or None."""
    try:
        description: dict[str, Any] = json.loads((run.path / SELECTED / DESCRIPTION).read_text())
        exported = run.path / SELECTED / description["file"]
        trained_with = _trained_with(run, member_of(run, description["exit"]))
        current = (
            all(description["trained_with"].get(name) == value for name, value in trained_with.items())
            and description["sha256"] == sha256(exported)
            and description["test"] is not None
        )
    except (OSError, ValueError, KeyError, TypeError):  # NetworkError, of an exit that is gone, is a ValueError
        return None
    return description if current else None


def _read_candidates(path: Path, conditions: Mapping[str, object], any_latency: bool) -> list[Candidate]:
    """Measured before, on the same checkpoint, and under the same conditions if latencies matter; otherwise nothing."""
    try:
        document = json.loads(path.read_text())
        compared = ["checkpoint_sha256", "added_sha256"] if any_latency else [*conditions]
        if any(document["conditions"].get(name) != conditions[name] for name in compared):
            return []
        names = {field.name for field in dataclasses.fields(Candidate)}
        return [
            Candidate(**{name: value for name, value in record.items() if name in names})
            for record in document["candidates"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []
