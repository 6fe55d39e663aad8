"""Open a finished run, measure it, show its networks and write its tables and plots: for the commands on runs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lctprune.cli.console import print_candidates, print_json, printed_warnings, stderr, stdout, units
from lctprune.cli.options import use_threads
from lctprune.cli.progress import resumable
from lctprune.cli.working import working
from lctprune.config.combined import PROGRESSIVE
from lctprune.config.runtime import Runtime
from lctprune.data.builtin import dependence
from lctprune.errors import LctpruneError, RunError, RunWarning
from lctprune.measure.candidates import Candidate, unsteady
from lctprune.measure.choice import not_faster, straddling
from lctprune.measure.selection import Budget, pareto_front
from lctprune.runs import Run
from lctprune.utils.files import require_writable, why_not_writable
from lctprune.utils.names import shell_word
from lctprune.workflows.deployment import measure_run
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import members_of, notes, require_whole
from lctprune.workflows.model_card import MODEL_CARD, SELECTED, candidate_record
from lctprune.workflows.next_steps import better_epoch, like_chance, no_better, selection
from lctprune.workflows.run_choice import is_unfinished, newer_unfinished, newest_run
from lctprune.workflows.selections import asked_before, chosen_among, read_selection

CSV = "candidates.csv"


def opened(
    path: Path | None,
    *,
    model: str | None = None,
    data: Path | None = None,
    threads: int | None = None,
    partial: bool = False,
) -> Run:
    """Open the run, by default the newest that is finished; note on stderr what is newer and still in training."""
    use_threads(threads)
    if path is not None:
        return Run(path, model=model, data_path=data, partial=partial)
    run = newest_run(model=model, data_path=data)
    run.partial = partial
    for other, done in newer_unfinished(run):
        epochs = other.config.training.epochs
        state = f"only at epoch {done} of {epochs}"
        if other.is_compression:
            state = "a compression that is not finished"
        stderr().print(f"Note: taking {run.path}; {other.path} is newer, but {state}.")
    return run


def results_folder(run: Run, out: Path | None, below: str = "") -> Path | None:
    """Return the folder for results: `out`, or one in the run; None, with a note on stderr, if the run is read-only.

    Raises:
        RunError: `out` cannot be written to.
    """
    if out is not None:
        require_writable(out, "choose another --out")
        return out
    folder = run.path / below
    if reason := why_not_writable(run.path) or why_not_writable(folder):
        stderr().print(f"Note: {folder} cannot be written ({reason}): nothing is kept; --out DIR writes elsewhere.")
        return None
    return folder


def measured(
    run: Run,
    folder: Path | None,
    *,
    latency_batch: int = 1,
    runtime: Runtime = "torchscript",
    precision: str = "fp32",
    again: bool = False,
    any_latency: bool = False,
    loaded: LoadedRun | None = None,
    only: int | None = None,
    mean_flops: bool = False,
    steady: bool = False,
) -> list[Candidate]:
    """Measure the run's candidates with `measure_run`, and note on stderr what is unfinished.

    Args:
        run: the run.
        folder: folder for candidates.json; None if it is not to be written.
        latency_batch: see `measure_run`, as for all others.
        runtime: runtime that latencies are measured in.
        precision: precisions of further candidates, see `measure_run`.
        again: whether to measure again.
        any_latency: whether latencies may be of other conditions.
        loaded: the run's data and networks.
        only: number of the single exit to measure, see `measure_run`.
        mean_flops: whether the progressive network is a candidate, see `measure_run`.
        steady: whether to measure again what a busy machine gave.
    """
    console, loaded = stderr(), loaded or LoadedRun(run)
    done, epochs = loaded.epochs_done(), run.config.training.epochs
    if done < epochs:
        console.print(
            f"Note: {run.path} is at epoch {done} of {epochs}, still training or interrupted "
            f"({run.command('resume')}); all figures and files are of "
            f"{'that epoch' if loaded.checkpoint().epoch == done else 'the best one so far'}."
        )
    elif is_unfinished(run, done):
        console.print(
            f"Note: the compression in {run.path} has not chosen a network yet ({run.command('resume')}); all figures "
            "are of what it has trained so far."
        )
    if done >= epochs and (note := better_epoch(run)):
        console.print(f"Note: {note}.")
    require_whole(loaded)
    for note in notes(loaded):
        console.print(f"Note: {note}.")
    if damage := metrics_damage(run):
        console.print(f"Note: {damage}.")
    with working("Measuring every exit on the validation split"):
        return measure_run(
            run,
            latency_batch=latency_batch,
            runtime=runtime,
            precision=precision,
            again=again,
            any_latency=any_latency,
            loaded=loaded,
            keep=folder is not None,
            folder=folder,
            only=only,
            mean_flops=mean_flops,
            steady=steady,
        )


def metrics_damage(run: Run) -> str:
    """Say what is wrong with metrics.csv; "" if nothing is."""
    try:
        return run.read_metrics()[1]
    except RunError as error:
        return str(error)


def present_selection(loaded: LoadedRun) -> dict[str, Any] | None:
    """Read what was selected from the run; note on stderr if that was from an earlier checkpoint."""
    run = loaded.run
    with printed_warnings(stderr()):
        selection = read_selection(loaded)
    if selection is None and (run.path / SELECTED).exists():
        note = f"Note: {run.path / SELECTED} was made from an earlier checkpoint or run"
        _, options = asked_before(run.path / SELECTED)
        stderr().print(f"{note}; select again: {run.command('select', *options)}", soft_wrap=True)
    return selection


def refresh_results(loaded: LoadedRun, candidates: Sequence[Candidate], folder: Path | None) -> None:
    """Write the files of `write_results` again, with the choice if one was made from this checkpoint."""
    selection = present_selection(loaded)
    if selection is None:
        write_results(loaded.run, candidates, folder)
    else:
        chosen = chosen_among(candidates, selection)
        write_results(loaded.run, candidates, folder, chosen=chosen, limits=selection["budget"] if chosen else None)


def write_results(
    run: Run,
    candidates: Sequence[Candidate],
    folder: Path | None,
    *,
    chosen: Candidate | None = None,
    limits: Mapping[str, float] | None = None,
) -> None:
    """Write candidates.csv, pareto.png and pareto.svg into a folder, if there is one."""
    if folder is None:
        return
    from lctprune import reports  # pandas and matplotlib take a second to import

    reports.write_candidates(candidates, folder / CSV)
    title = f"{run.path.resolve().name}: {reports.validation_data(run)}"
    figure = reports.pareto_figure(candidates, chosen=chosen, budget=limits, title=title)
    reports.save_figure(figure, folder / "pareto")


def show_candidates(
    run: Run,
    candidates: Sequence[Candidate],
    headline: str,
    *,
    epochs: Mapping[str, int],
    chosen: Candidate | None = None,
    limits: Mapping[str, float] | None = None,
    json: bool = False,
) -> None:
    """Show the run's networks as a table below a headline, or as one JSON document."""
    if note := unsteady(candidates):
        again = run.command("evaluate", *_as_measured(candidates[0]))
        stderr().print(f"Note: {note}; do not rely on them: measure again when it is quiet, with {again}.")
    if json:
        records = [candidate_record(candidate) for candidate in candidates]
        print_json({"run": str(run.path), "split": "validation", **epochs, **given_record(run), "candidates": records})
        return
    console = stdout()
    at = "" if epochs["epoch"] >= epochs["epochs"] else f", epoch {epochs['epoch']} of {epochs['epochs']}"
    console.print(f"{headline} ({candidates[0].samples} samples{at}):\n")
    slow, unsure = not_faster(candidates), straddling(candidates, limits or {})
    marks = {each.key: "!" * (each in slow) + "~" * (each in unsure) for each in candidates}
    front = pareto_front(candidates)
    print_candidates(console, candidates, chosen=chosen, front=front, marks=marks)
    if any(each.rmse is not None for each in candidates):
        console.print(f"\nRMSE is in the units of the target{_target(run)}.", end="")
    if chosen is not None:
        console.print(f"\n→ chosen{', and on the Pareto front too' if chosen in front else ''}.", end="")
    console.print(f"\n* on the Pareto front of {candidates[0].metric} and FLOPs. {units(run, candidates)}.")
    if run.config.data and (note := dependence(run.config.data.config)):
        console.print(f"Note: {note}.")
    if early := [each.name for each in candidates if each.combined == PROGRESSIVE]:
        console.print(
            f"FLOPs, MACs and latency of {early[0]} are means over samples. All accuracies are of the "
            f"{candidates[0].samples} samples that it was not fitted on."
        )
    if slow:
        than = "the main network" + (", or fewer bits" if any(each.is_reduced for each in slow) else "")
        console.print(
            f"! fewer FLOPs than {than}, but not shown to be faster (the 95% intervals of the latencies meet)."
        )
    if unsure:
        console.print("~ the 95% interval of the latency contains the limit: it may fit or not.")
    if note := like_chance(run, candidates, chosen):
        stderr().print(f"Note: {note}.", soft_wrap=True)


def _as_measured(candidate: Candidate) -> list[str]:
    """Return the options of `evaluate` by which a latency is measured as it was."""
    runtime, batch = candidate.latency_runtime, candidate.latency_batch
    options = ["--runtime", runtime] if runtime != "torchscript" else []
    return options + (["--latency-batch", str(batch)] if batch != 1 else [])


def _target(run: Run) -> str:
    data = run.config.data
    return f", {data.config.target}" if data and data.config.target else ""


def given_record(run: Run) -> dict[str, Any]:
    """Return the scores of the network that the run was given, for a JSON document; nothing if it was given none."""
    given = run.config.given
    return {"given": dataclasses.asdict(given)} if given else {}


def show_all(run: Run, *, json: bool, added: Run | None = None, budget: Budget | None = None) -> None:
    """Measure and show all networks of the run, the added ones too; then how to choose one, of `added` where it can be.

    Args:
        run: the run.
        json: whether to print a JSON document instead.
        added: the run that was added to it just now.
        budget: budget that the user gave; by default that of the last selection.
    """
    with resumable(run):
        folder = results_folder(run, None)
        loaded = LoadedRun(run)
        candidates = measured(run, folder, loaded=loaded)
        refresh_results(loaded, candidates, folder)
    headline = f"\n{run.path}, all its networks on the validation split"
    show_candidates(run, candidates, headline, epochs=loaded.epochs, json=json)
    if not json:
        new = [each.number for each in members_of(loaded) if added is not None and each.run.path == added.path]
        for note in filter(None, (no_better(candidates, added, new), better_epoch(added)) if added else ()):
            stderr().print(f"Note: {note}.", soft_wrap=True)
        given = budget or asked_before(run.path / SELECTED)[0]
        stdout().print(f"Next, choose one under a budget: {selection(run, candidates, new, given)}", soft_wrap=True)


def note_selected(run: Run | LoadedRun, inputs: Sequence[str] = ()) -> None:
    """Say where the network is that was chosen from a run as it is now, and how it predicts for the inputs."""
    loaded = LoadedRun.of(run)
    if _chosen_now(loaded) is not None:
        words = ["lctprune", "predict", str(loaded.run.path / SELECTED), *inputs]
        _note_chosen(loaded, " ".join(map(shell_word, words)) if inputs else "")


def note_not_exported(loaded: LoadedRun, exported: int, formats: Sequence[str], further: Sequence[str]) -> None:
    """Say which command exports the network that was chosen from a run as it is now, if that is another.

    Args:
        loaded: the run.
        exported: number of the network that was exported.
        formats: formats that were asked for.
        further: further options of the command.
    """
    chosen = _chosen_now(loaded)
    if chosen is None or chosen["exit"] == exported:
        return
    options, is_combined = ["--format", ",".join(formats)] if formats else [], bool(chosen.get("combined"))
    network = chosen["validation"]["name"] if is_combined else str(chosen["exit"])
    is_possible = not is_combined or (not further and {*formats} <= {"torchscript", "onnx"})
    _note_chosen(loaded, loaded.run.command("export", "--exit", network, *options, *further) if is_possible else "")


def _chosen_now(loaded: LoadedRun) -> dict[str, Any] | None:
    """Read what was selected from a run as it is now; None where that is damaged, which the caller did not ask for."""
    with warnings.catch_warnings(), suppress(LctpruneError):
        warnings.simplefilter("ignore", RunWarning)
        if (loaded.run.path / SELECTED / MODEL_CARD).is_file():
            return read_selection(loaded)
    return None


def _note_chosen(loaded: LoadedRun, command: str) -> None:
    selected = loaded.run.path / SELECTED
    stderr().print(f"Note: {selected} holds the chosen one{command and f': {command}'}", soft_wrap=True)
