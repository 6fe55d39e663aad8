"""What the commands on a finished run share: their arguments, opening and measuring the run, its tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lctprune.cli.console import print_candidates, print_json, stderr, stdout, units
from lctprune.measure.candidates import Candidate, candidate_of
from lctprune.measure.selection import pareto_front
from lctprune.runs import Run, newest_run
from lctprune.workflows.deployment import SELECTED, measure_run, read_selection
from lctprune.workflows.members import notes
from lctprune.workflows.model_card import candidate_record

CSV = "candidates.csv"
RunArgument = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Run directory; by default the newest.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="The run's own package.module:callable, which is only executed if you name it."),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        exists=True,
        help="Where the run's data is now, if it has moved: the folder or file (of cifar10 and the like, what "
        "--data-dir was).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default as many as cores.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Samples in the call whose latency is measured.")]


def opened(path: Path | None, *, model: str | None = None, data: Path | None = None, threads: int | None = None) -> Run:
    """The run, by default the newest."""
    if threads is not None:
        torch.set_num_threads(threads)
    return newest_run(model=model, data_path=data) if path is None else Run(path, model=model, data_path=data)


def measured(run: Run, *, latency_batch: int = 1, again: bool = False, any_latency: bool = False) -> list[Candidate]:
    """The run's candidates, as of `measure_run`; notes on stderr of what is unfinished."""
    console = stderr()
    if run.epochs_done < (epochs := run.config["training"]["epochs"]):
        console.print(f"Note: {run.path} stands at epoch {run.epochs_done} of {epochs}.")
    for note in notes(run):
        console.print(f"Note: {note}.")
    with console.status("Measuring every exit on the validation split"):
        return measure_run(run, latency_batch=latency_batch, again=again, any_latency=any_latency)


def present_selection(run: Run) -> dict[str, Any] | None:
    """What `read_selection` gives; where it is of an earlier checkpoint, a note on stderr."""
    selection = read_selection(run)
    if selection is None and (run.path / SELECTED).exists():
        stderr().print(f"Note: {run.path / SELECTED} is of an earlier checkpoint or run; select again.")
    return selection


def refresh_results(run: Run, candidates: Sequence[Candidate]) -> None:
    """The files of `write_results`, with what was selected, as long as that is the run's still."""
    selection = present_selection(run)
    if selection is None:
        write_results(run, candidates)
    else:
        chosen = candidate_of(candidates, selection["exit"])
        write_results(run, candidates, chosen=chosen, limits=selection["budget"])


def write_results(
    run: Run,
    candidates: Sequence[Candidate],
    *,
    chosen: Candidate | None = None,
    limits: Mapping[str, float] | None = None,
) -> None:
    """candidates.csv, pareto.png and pareto.svg in the run directory."""
    from lctprune import reports  # pandas and matplotlib take a second to import

    reports.write_candidates(candidates, run.path / CSV)
    figure = reports.pareto_figure(candidates, chosen=chosen, budget=limits)
    reports.save_figure(figure, run.path / "pareto")


def show_candidates(
    run: Run,
    candidates: Sequence[Candidate],
    headline: str,
    *,
    chosen: Candidate | None = None,
    latency_batch: int = 1,
    json: bool = False,
) -> None:
    """The run's networks, as a table below a headline or as one JSON document."""
    if json:
        records = [candidate_record(candidate) for candidate in candidates]
        print_json({"run": str(run.path), "split": "validation", "candidates": records})
        return
    console = stdout()
    console.print(f"{headline} ({candidates[0].samples} samples):\n")
    print_candidates(console, candidates, chosen=chosen, front=pareto_front(candidates))
    console.print(f"\n* on the Pareto front of accuracy and FLOPs. {units(run, batch=latency_batch)}.")
