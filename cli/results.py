"""Open a finished run, measure it, show its networks and write its tables and plots: for the commands on runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lctprune.cli.console import print_candidates, print_json, printed_warnings, stderr, stdout, units
from lctprune.errors import RunError
from lctprune.measure.candidates import Candidate, candidate_of
from lctprune.measure.selection import pareto_front
from lctprune.runs import Run, newest_run
from lctprune.utils.files import require_writable, why_not_writable
from lctprune.workflows.deployment import SELECTED, measure_run
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import notes, require_whole
from lctprune.workflows.model_card import candidate_record
from lctprune.workflows.selections import read_selection

CSV = "candidates.csv"


def opened(
    path: Path | None,
    *,
    model: str | None = None,
    data: Path | None = None,
    threads: int | None = None,
    partial: bool = False,
) -> Run:
    """Open the run, by default the newest."""
    if threads is not None:
        torch.set_num_threads(threads)
    found = newest_run(model=model, data_path=data) if path is None else Run(path, model=model, data_path=data)
    found.partial = partial
    return found


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
    again: bool = False,
    any_latency: bool = False,
    loaded: LoadedRun | None = None,
) -> list[Candidate]:
    """Measure the run's candidates with `measure_run`, and note on stderr what is unfinished.

    Args:
        run: the run.
        folder: folder for candidates.json; None if it is not to be written.
        latency_batch: see `measure_run`, as for all others.
        again: whether to measure again.
        any_latency: whether latencies may be of other conditions.
        loaded: the run's data and networks.
    """
    console = stderr()
    if run.epochs_done < (epochs := run.config.training.epochs):
        console.print(f"Note: {run.path} stands at epoch {run.epochs_done} of {epochs}.")
    require_whole(run)
    for note in notes(run):
        console.print(f"Note: {note}.")
    if damage := metrics_damage(run):
        console.print(f"Note: {damage}.")
    with printed_warnings(console), console.status("Measuring every exit on the validation split"):
        return measure_run(
            run,
            latency_batch=latency_batch,
            again=again,
            any_latency=any_latency,
            loaded=loaded,
            keep=folder is not None,
            folder=folder,
        )


def metrics_damage(run: Run) -> str:
    """Say what is wrong with metrics.csv; "" if nothing is."""
    try:
        return run.read_metrics()[1]
    except RunError as error:
        return str(error)


def present_selection(run: Run) -> dict[str, Any] | None:
    """Read what was selected from the run; note on stderr if that was from an earlier checkpoint."""
    with printed_warnings(stderr()):
        selection = read_selection(run)
    if selection is None and (run.path / SELECTED).exists():
        stderr().print(f"Note: {run.path / SELECTED} was made from an earlier checkpoint or run; select again.")
    return selection


def refresh_results(run: Run, candidates: Sequence[Candidate], folder: Path | None) -> None:
    """Write the files of `write_results` again, with the choice if one was made from this checkpoint."""
    selection = present_selection(run)
    if selection is None:
        write_results(candidates, folder)
    else:
        chosen = candidate_of(candidates, selection["exit"])
        write_results(candidates, folder, chosen=chosen, limits=selection["budget"])


def write_results(
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
    figure = reports.pareto_figure(candidates, chosen=chosen, budget=limits)
    reports.save_figure(figure, folder / "pareto")


def show_candidates(
    run: Run,
    candidates: Sequence[Candidate],
    headline: str,
    *,
    chosen: Candidate | None = None,
    latency_batch: int = 1,
    json: bool = False,
) -> None:
    """Show the run's networks as a table below a headline, or as one JSON document."""
    if json:
        records = [candidate_record(candidate) for candidate in candidates]
        print_json({"run": str(run.path), "split": "validation", "candidates": records})
        return
    console = stdout()
    console.print(f"{headline} ({candidates[0].samples} samples):\n")
    print_candidates(console, candidates, chosen=chosen, front=pareto_front(candidates))
    console.print(f"\n* on the Pareto front of {candidates[0].metric} and FLOPs. {units(run, batch=latency_batch)}.")


def show_all(run: Run, *, json: bool) -> None:
    """Measure and show all networks of the run, the added ones too."""
    folder = results_folder(run, None)
    candidates = measured(run, folder)
    refresh_results(run, candidates, folder)
    show_candidates(run, candidates, f"\n{run.path}, all its networks on the validation split", json=json)
