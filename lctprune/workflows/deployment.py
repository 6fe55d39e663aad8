"""Deploy a finished run: measure its exits, and export one with all that its user needs.

- candidates.json: the measured exits, for the checkpoint whose hash it names
- selected/model.pt: the exported network that was chosen under a budget
- selected/model.json: its model card: how to feed it, how good it is, what it costs; README.md says so for people
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import nn

from lctprune.config.combined import PROGRESSIVE
from lctprune.config.reading import FORMAT
from lctprune.config.runtime import FULL, REDUCED, Runtime, parse_precisions
from lctprune.config.training import TrainConfig
from lctprune.errors import ReducedNote, RunError, RunWarning
from lctprune.exporting.compiled import CompiledNetwork
from lctprune.exporting.formats import Format
from lctprune.exporting.reducing import ReducedNetwork, in_precision, require_precision
from lctprune.measure.batch_dependence import dependences, scoring_batch, warn_of_batch_dependence
from lctprune.measure.candidates import Candidate, ScoredExit, candidate_of, measure_costs, unsteady
from lctprune.measure.recall import recall_record
from lctprune.measure.reduced import calibration_samples, reduced_runtimes, with_reduced
from lctprune.measure.rules import Rule
from lctprune.measure.runtimes import COMPILED
from lctprune.measure.scores import ExitScores, score_exits, score_networks
from lctprune.measure.selection import main_of
from lctprune.network import LocalCriticNetwork
from lctprune.runs import Run, as_run
from lctprune.utils.environment import environment, machine
from lctprune.utils.files import require_writable, write_json
from lctprune.utils.modules import held_on
from lctprune.workflows.combined_candidates import with_combined
from lctprune.workflows.combined_deployment import deploy_progressive
from lctprune.workflows.deployed import Deployment
from lctprune.workflows.exported_files import (
    COMPARED_SAMPLES,
    FILES,
    Checked,
    earlier_files,
    export_files,
    remove_earlier,
)
from lctprune.workflows.exported_source import source_of
from lctprune.workflows.from_pixels import with_pixels
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.measurements import CANDIDATES, read_candidates
from lctprune.workflows.members import Member, members_of
from lctprune.workflows.model_card import MODEL_CARD, SELECTED, candidate_record, model_card
from lctprune.workflows.readme_card import write_readme
from lctprune.workflows.recorded_answers import answers_record
from lctprune.workflows.target_units import in_target_units


def measure_run(
    run: str | Path | Run,
    *,
    again: bool = False,
    latency_batch: int = 1,
    any_latency: bool = False,
    loaded: LoadedRun | None = None,
    keep: bool = True,
    folder: Path | None = None,
    runtime: Runtime = "torchscript",
    precision: str | Iterable[str] = FULL,
    only: int | None = None,
    mean_flops: bool = False,
    steady: bool = False,
) -> list[Candidate]:
    """Measure accuracy and costs of a run's candidates, on its validation split, and write them to candidates.json.

    The ensembles that were found in the run are added, as `lctprune ensemble` recorded them.

    Earlier measurements are read back, as long as the checkpoint, the latency's batch size and the machine with its
    number of threads are unchanged, and their costs are those of the networks.

    Args:
        run: run with at least one finished epoch, or its directory.
        again: whether to measure again, even if earlier measurements could be read back.
        latency_batch: samples per timed call.
        any_latency: whether latencies of this checkpoint may be read back that were measured under other conditions.
        loaded: the run's data and networks, if the caller needs them too.
        keep: whether to write candidates.json.
        folder: folder for candidates.json; by default the run directory.
        runtime: runtime that latencies are measured in: torchscript, onnxruntime, openvino, inductor, or auto for the
            fastest of the others.
        precision: int8, bf16 or fp16, or several, for candidates in these precisions too, see `with_reduced`.
        only: number of the single exit to measure, and of which there are precisions, beside the main network; with
            `keep` false, as candidates.json holds all.
        mean_flops: whether the run's progressive network is added, whose FLOPs and latency are means over samples. All
            candidates are then compared on the validation samples that its thresholds were not fitted on.
        steady: whether to measure again where a busy machine gave the earlier latencies, see `unsteady`.

    Returns:
        One candidate per exit, the main network's after those of its exits; with precisions several per exit; then the
        networks of several exits.

    Raises:
        ConfigError: the runtime is not installed, or does not have a precision.
        RunError: the run's network cannot be loaded, or its data has changed; or `keep`, and the folder cannot be
            written to; or `mean_flops`, and there is no progressive network.
        DataError: the run's data cannot be read.
    """
    run = as_run(run)
    loaded, precisions = loaded or LoadedRun(run), parse_precisions(precision)
    path, members, metric = run.path / CANDIDATES, members_of(loaded), run.config.training.metric
    added = {each.run.path: loaded.checkpoint(each.run).sha256 for each in members if each.run.path != run.path}
    conditions = {
        "checkpoint_sha256": loaded.checkpoint().sha256,
        "added_sha256": {str(below.relative_to(run.path)): digest for below, digest in added.items()},
        "latency_batch": latency_batch,
        "runtime": runtime,
        "precision": ",".join(precisions) or FULL,
        "device": "cpu",
        **machine(),
    }
    reduced_runtimes(runtime, precisions)  # before anything is measured
    known = [] if again else read_candidates(path, conditions, members, loaded, any_latency=any_latency)
    if known and not (steady and unsteady(known)):
        _warn_of_batch_dependence(known)
        own = in_target_units(known, run.config.data)  # earlier versions did not record that
        return with_combined(loaded, own, mean_flops=mean_flops, any_latency=any_latency)
    folder = folder or run.path
    if keep:
        require_writable(folder, "give another folder, or keep=False")
    if only is not None:
        main = max(each.number for each in members if each.run.path == run.path)
        members = [each for each in members if each.number in (only, main)]
    exits = scored_members(members, loaded, latency_batch, metric)
    forms, left_out = exits, list[str]()
    if precisions:
        samples, val = calibration_samples(loaded.data.train), loaded.data.val
        alone = [each for each in exits if only in (None, each.exit)]
        forms, runtime, left_out = with_reduced(
            alone, precisions, samples, val, runtime, metric=metric, latency_batch=latency_batch
        )
        forms += [each for each in exits if only not in (None, each.exit)]
    if runtime == COMPILED:
        loaded.compiled = {each.exit: CompiledNetwork(each.network, loaded.data.example) for each in exits}
        forms = [each._replace(network=loaded.compiled[each.exit]) for each in exits]
    for note in left_out:
        warnings.warn(note, ReducedNote, stacklevel=2)
    candidates = measure_costs(forms, loaded.data.example, latency_batch=latency_batch, runtime=runtime)
    candidates = in_target_units(candidates, run.config.data)
    if added:  # by what they cost, the main network last
        last = {each.key: each.is_main for each in candidates}
        candidates.sort(
            key=lambda each: (last[each.exit], math.inf if each.flops is None else each.flops, each.is_main)
        )
    document = {
        "format_version": FORMAT,
        "split": "validation",
        "units": {
            "flops": "per sample; 1 FLOP is one multiply or one add, so flops = 2 * macs",
            "latency_ms": "median of one call in latency_runtime, in milliseconds",
            "size_bytes": "parameters and buffers",
        },
        "example_shape": list(loaded.data.example.shape),
        **loaded.epochs,
        "conditions": conditions,
        "candidates": [candidate_record(candidate) for candidate in candidates],
        "recall": recall_record(exits),
        "answers": answers_record(candidates),
        "left_out": left_out,
    }
    if keep:
        write_json(folder / CANDIDATES, document)
    _warn_of_batch_dependence(candidates)
    if only is not None:
        return candidates
    return with_combined(loaded, candidates, mean_flops=mean_flops, any_latency=any_latency)


def _warn_of_batch_dependence(candidates: Sequence[Candidate]) -> None:
    warn_of_batch_dependence(_dependent(candidates), latency_batch=candidates[0].latency_batch)


def _dependent(candidates: Iterable[Candidate]) -> dict[str, str]:
    """Return what measuring found of networks whose outputs depend on the batch, as `dependences` does."""
    return {each.name: each.batch_dependence for each in candidates if each.batch_dependence}


def scored_members(members: Sequence[Member], loaded: LoadedRun, latency_batch: int, metric: str) -> list[ScoredExit]:
    """Score members of a run, with one pass over the validation split for each run that holds some.

    An accelerator does so where there is one; latencies are the CPU's.
    """
    exits = []
    for _, together in itertools.groupby(members, key=lambda member: member.run.path):
        group = list(together)
        network = _network_of(group[0].run, loaded)
        if network is None:
            continue
        networks = {each.name: network.subnetwork(each.exit) for each in group}
        found = dependences(networks, loaded.data.val)
        batch_size = scoring_batch(found, latency_batch=latency_batch)
        with held_on(network, TrainConfig().resolved().device):
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
            raise RunError(f"{error}; or go on without the networks in {run.path}: `partial`") from error
        warnings.warn(f"{error}; it is left out", RunWarning, stacklevel=2)
        return None


def deploy(
    run: Run,
    candidates: Sequence[Candidate],
    exit: int,
    folder: Path | None,
    *,
    formats: Sequence[Format] = ("torchscript",),
    apart: bool = False,
    with_preprocessing: bool = False,
    precision: str = "",
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
        formats: formats of the files; the model card names the first one before the others.
        apart: whether each file is tried in a new process, with nothing but its own runtime.
        with_preprocessing: whether the files take uint8 images of any size, [batch, height, width, channels], and give
            probabilities.
        precision: int8, bf16 or fp16 for the exit in a reduced precision, which all the formats must have.
        budget: limits that led to this exit, for the model card.
        rule: rule that led to this exit, for the model card.
        measure_test: whether to measure it and the main network on the test split, which nothing else reads: for an
            exit that has been chosen, not for choosing one.
        loaded: the run's data and networks, if the caller has used them.

    Raises:
        NetworkError: there is no such exit.
        ConfigError: an extra is not installed; `with_preprocessing`, and inputs are no images, or `precision` is int8;
            or a format does not have the precision, or cannot hold the preprocessing.
        ExportError: a file would not do what the network does, or cannot be written; none is written then.
    """
    loaded, chosen = loaded or LoadedRun(run), candidate_of(candidates, exit, precision)
    limits = {
        "budget": dict(budget or {}),
        "rule": dataclasses.asdict(rule or Rule()),
        "mean_flops": any(each.combined == PROGRESSIVE for each in candidates),
    }
    if chosen.combined == PROGRESSIVE:
        options = {"with_preprocessing": with_preprocessing}
        return deploy_progressive(loaded, candidates, chosen, folder, formats, limits, **options)
    source = source_of(loaded, chosen, formats)
    subnetwork = source.network
    forms: list[ReducedNetwork] = []
    is_reduced = precision in REDUCED
    require_precision(formats, precision if is_reduced else FULL, with_preprocessing=with_preprocessing)
    if is_reduced:
        forms = in_precision(
            subnetwork, calibration_samples(loaded.data.train), formats, precision, latency_batch=chosen.latency_batch
        )
    # first: it may find a file that is broken
    scores = _test_scores(loaded, forms[0] if forms else subnetwork, candidates, chosen) if measure_test else None
    if folder is None:
        return Deployment.of(scores, run.config.data)
    samples, targets = next(loaded.data.val.batches(COMPARED_SAMPLES))
    checked = Checked(
        samples=samples,
        targets=targets,
        all_targets=loaded.data.val.targets,
        metric=run.config.training.metric,
        dependence=chosen.batch_dependence,
        latency_batch=chosen.latency_batch,
        apart=apart,
    )
    described = model_card(run, candidates, exit, scores, loaded.data.classes, precision=precision)
    if with_preprocessing:
        subnetwork, checked, described = with_pixels(subnetwork, run.config.data, checked, described)
        if forms:
            forms = in_precision(subnetwork, checked.samples, formats, precision, latency_batch=chosen.latency_batch)
    is_selected = folder.resolve() == (run.path / SELECTED).resolve()  # which holds nothing but the choice
    earlier = FILES if is_selected else earlier_files(folder)
    is_ready = formats[0] == "aoti" and exit in loaded.compiled and not with_preprocessing  # compiled for measuring
    ready = [loaded.compiled[exit].package[0]] if is_ready else []
    files = export_files(subnetwork, folder, formats, checked, names=source.names, forms=forms, ready=ready)
    card = folder / MODEL_CARD
    record = {
        "format_version": FORMAT,
        **described,
        **{name: files[0][name] for name in ("file", "format", "sha256")},
        "files": files,
        **source.details,
        **limits,
        "trained_with": {"run": run.path.resolve().name, **source.trained_with},
        **environment(),
    }
    write_json(card, record)
    write_readme(folder, record, run.config)
    remove_earlier(folder, earlier, files)
    models = tuple(folder / each["file"] for each in files)
    return dataclasses.replace(Deployment.of(scores, run.config.data), model=models[0], models=models, model_card=card)


def _test_scores(
    loaded: LoadedRun, subnetwork: nn.Module, candidates: Sequence[Candidate], chosen: Candidate
) -> ExitScores:
    """Score the chosen network and the main network on the test split."""
    batch_size = scoring_batch(_dependent([chosen, main_of(candidates)]), latency_batch=chosen.latency_batch)
    networks, metric = [subnetwork, loaded.network()], loaded.run.config.training.metric
    with held_on(nn.ModuleList(networks), TrainConfig().resolved().device):
        return score_networks(networks, loaded.data.test, batch_size=batch_size, metric=metric)
