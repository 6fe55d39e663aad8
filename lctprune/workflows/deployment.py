"""Deploy a finished run: measure its exits, and export one with all that its user needs.

- candidates.json: the measured exits, for the checkpoint whose hash it names
- selected/model.pt: the exported network that was chosen under a budget
- selected/model.json: its model card: how to feed it, how good it is, what it costs
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lctprune.config.reading import FORMAT
from lctprune.errors import RunError, RunWarning
from lctprune.exporting import Format, export_known
from lctprune.measure.batch_dependence import dependences, scoring_batch, warn_of_batch_dependence
from lctprune.measure.candidates import Candidate, ScoredExit, candidate_of, measure_costs
from lctprune.measure.recall import recall_record
from lctprune.measure.rules import Rule
from lctprune.measure.scores import score_exits, score_networks
from lctprune.measure.selection import main_of
from lctprune.network import LocalCriticNetwork
from lctprune.runs import Run
from lctprune.utils.environment import environment, machine
from lctprune.utils.files import require_writable, sha256, write_json
from lctprune.workflows.answers import answers_record
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.measurements import CANDIDATES, read_candidates
from lctprune.workflows.members import Member, member_of, members_of
from lctprune.workflows.model_card import MODEL_CARD, candidate_record, known, model_card

SELECTED = "selected"
COMPARED_SAMPLES = 32  # samples that an exported file is compared on
SUFFIXES: dict[Format, str] = {"torchscript": ".pt"}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """An exported exit.

    Attributes:
        model: the exported file; None where nothing was written.
        model_card: model.json beside it; None where nothing was written.
        test_accuracy: accuracy of this exit on the test split, see `Candidate.accuracy`.
        main_test_accuracy: accuracy of the main network on the test split.
        test_score: value of the run's metric of this exit on the test split; None where it is not defined, too, as R2
            of targets that do not differ.
        main_test_score: value of the run's metric of the main network on the test split.
        test_samples: number of samples of the test split that count; it and the others are None where nothing was
            measured.
    """

    model: Path | None = None
    model_card: Path | None = None
    test_accuracy: float | None = None
    main_test_accuracy: float | None = None
    test_score: float | None = None
    main_test_score: float | None = None
    test_samples: int | None = None


def measure_run(
    run: Run,
    *,
    again: bool = False,
    latency_batch: int = 1,
    any_latency: bool = False,
    loaded: LoadedRun | None = None,
    keep: bool = True,
    folder: Path | None = None,
) -> list[Candidate]:
    """Measure accuracy and costs of a run's candidates, on its validation split, and write them to candidates.json.

    Earlier measurements are read back, as long as the checkpoint, the latency's batch size and the machine with its
    number of threads are unchanged, and their costs are those of the networks.

    Args:
        run: run with at least one finished epoch.
        again: whether to measure again, even if earlier measurements could be read back.
        latency_batch: samples per timed call.
        any_latency: whether latencies of this checkpoint may be read back that were measured under other conditions.
        loaded: the run's data and networks, if the caller needs them too.
        keep: whether to write candidates.json.
        folder: folder for candidates.json; by default the run directory.

    Returns:
        One candidate per exit, the main network's after those of its exits.

    Raises:
        RunError: the run's network cannot be loaded, or its data has changed; or `keep`, and the folder cannot be
            written to.
        DataError: the run's data cannot be read.
    """
    loaded = loaded or LoadedRun(run)
    path, members, metric = run.path / CANDIDATES, members_of(loaded), run.config.training.metric
    added = {each.run.path: loaded.checkpoint(each.run).sha256 for each in members if each.run.path != run.path}
    conditions = {
        "checkpoint_sha256": loaded.checkpoint().sha256,
        "added_sha256": {str(below.relative_to(run.path)): digest for below, digest in added.items()},
        "latency_batch": latency_batch,
        "device": "cpu",
        **machine(),
    }
    known = [] if again else read_candidates(path, conditions, members, loaded, any_latency=any_latency)
    if known:
        _warn_of_batch_dependence(known)
        return known
    folder = folder or run.path
    if keep:
        require_writable(folder, "give another folder, or keep=False")
    exits = _scored(members, loaded, latency_batch, metric)
    candidates = measure_costs(exits, loaded.data.example, latency_batch=latency_batch)
    if added:  # by what they cost, the main network last
        candidates.sort(key=lambda each: (each.is_main, math.inf if each.flops is None else each.flops))
    document = {
        "format_version": FORMAT,
        "split": "validation",
        "units": {
            "flops": "per sample; 1 FLOP is one multiply or one add, so flops = 2 * macs",
            "latency_ms": "median of one call, in milliseconds",
            "size_bytes": "parameters and buffers",
        },
        "example_shape": list(loaded.data.example.shape),
        **loaded.epochs,
        "conditions": conditions,
        "candidates": [candidate_record(candidate) for candidate in candidates],
        "recall": recall_record(exits),
        "answers": answers_record(candidates),
    }
    if keep:
        write_json(folder / CANDIDATES, document)
    _warn_of_batch_dependence(candidates)
    return candidates


def _warn_of_batch_dependence(candidates: Sequence[Candidate]) -> None:
    warn_of_batch_dependence(_dependent(candidates), latency_batch=candidates[0].latency_batch)


def _dependent(candidates: Iterable[Candidate]) -> dict[str, str]:
    """Return what measuring found of networks whose outputs depend on the batch, as `dependences` does."""
    return {each.name: each.batch_dependence for each in candidates if each.batch_dependence}


def _scored(members: Sequence[Member], loaded: LoadedRun, latency_batch: int, metric: str) -> list[ScoredExit]:
    """Score all members of a run, with one pass over the validation split for each run that holds some."""
    exits = []
    for _, together in itertools.groupby(members, key=lambda member: member.run.path):
        group = list(together)
        network = _network_of(group[0].run, loaded)
        if network is None:
            continue
        networks = {each.name: network.subnetwork(each.exit) for each in group}
        found = dependences(networks, loaded.data.val)
        batch_size = scoring_batch(found, latency_batch=latency_batch)
        scores = score_exits(network, loaded.data.val, batch_size=batch_size, metric=metric)
        exits += [
            ScoredExit(
                each.number,
                each.name,
                networks[each.name],
                scores,
                each.exit,
                each.origin,
                batch_dependence=found.get(each.name, ""),
            )
            for each in group
        ]
    return exits


def _network_of(run: Run, loaded: LoadedRun) -> LocalCriticNetwork | None:
    """Load a network of the run; None for a damaged one that was added and is to be left out."""
    try:
        return loaded.network(run)
    except RunError as error:
        if run.path == loaded.run.path:
            raise
        if not loaded.run.partial:
            raise RunError(f"{error}; or go on without the networks in {run.path}: --partial") from error
        warnings.warn(f"{error}; it is left out", RunWarning, stacklevel=2)
        return None


def deploy(
    run: Run,
    candidates: Sequence[Candidate],
    exit: int,
    folder: Path | None,
    *,
    format: Format = "torchscript",
    budget: Mapping[str, float] | None = None,
    rule: Rule | None = None,
    measure_test: bool = False,
    loaded: LoadedRun | None = None,
) -> Deployment:
    """Export one exit into a folder, with its model card.

    Args:
        run: run that the network comes from.
        candidates: all candidates of the run, for the model card.
        exit: number of the candidate to export.
        folder: output folder, for `model.pt` and `model.json`; None to write nothing, and only measure.
        format: file format.
        budget: limits that led to this exit, for the model card.
        rule: rule that led to this exit, for the model card.
        measure_test: whether to measure it and the main network on the test split, which nothing else reads: for an
            exit that has been chosen, not for choosing one.
        loaded: the run's data and networks, if the caller has used them.

    Raises:
        NetworkError: there is no such exit.
        ExportError: the file would not do what the network does, or cannot be written.
    """
    loaded = loaded or LoadedRun(run)
    member = member_of(loaded, exit)
    subnetwork = loaded.network(member.run).subnetwork(member.exit)
    scores = None
    if measure_test:  # first: it may find a file that is broken
        chosen = candidate_of(candidates, exit)
        batch_size = scoring_batch(_dependent([chosen, main_of(candidates)]), latency_batch=chosen.latency_batch)
        networks, metric = [subnetwork, loaded.network()], run.config.training.metric
        scores = score_networks(networks, loaded.data.test, batch_size=batch_size, metric=metric)
    measured: dict[str, Any] = {}
    if scores:
        measured = {
            "test_accuracy": known(scores.accuracy[0]),
            "main_test_accuracy": known(scores.accuracy[1]),
            "test_score": known(scores.score[0]),
            "main_test_score": known(scores.score[1]),
            "test_samples": scores.samples,
        }
    if folder is None:
        return Deployment(**measured)
    samples, _ = next(loaded.data.val.batches(COMPARED_SAMPLES))
    path, dependence = folder / f"model{SUFFIXES[format]}", candidate_of(candidates, exit).batch_dependence
    model = export_known(subnetwork, samples, path, dependence=dependence, format=format)
    card = folder / MODEL_CARD
    record = {
        "format_version": FORMAT,
        **model_card(run, candidates, exit, scores, loaded.data.classes),
        "file": model.name,
        "format": format,
        "sha256": sha256(model),
        "budget": dict(budget or {}),
        "rule": dataclasses.asdict(rule or Rule()),
        "trained_with": {"run": run.path.resolve().name, **trained_with(loaded, member)},
        **environment(),
    }
    write_json(card, record)
    return Deployment(model=model, model_card=card, **measured)


def trained_with(loaded: LoadedRun, member: Member) -> dict[str, Any]:
    """Name the run's checkpoint, and that of the added run which holds the network, by paths within the run."""
    run, record = loaded.run, {"checkpoint_sha256": loaded.checkpoint().sha256, **loaded.epochs}
    if member.run.path == run.path:
        return record
    added = {
        "run": str(member.run.path.relative_to(run.path)),
        "checkpoint_sha256": loaded.checkpoint(member.run).sha256,
    }
    return {**record, "added": added}


def deployment_record(deployment: Deployment) -> dict[str, Any]:
    """Return a deployment as plain JSON values."""
    named = {"description" if name == "model_card" else name: value for name, value in vars(deployment).items()}
    return {name: str(value) if isinstance(value, Path) else value for name, value in named.items()}
