"""The smaller commands on a finished run: evaluate, report, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lctprune.cli.console import print_json, stdout
from lctprune.cli.measured import (
    BatchOption,
    DataOption,
    JsonOption,
    ModelOption,
    RunArgument,
    ThreadsOption,
    measured,
    opened,
    present_selection,
    refresh_results,
    show_candidates,
)
from lctprune.measure.candidates import candidate_of
from lctprune.measure.selection import main_of
from lctprune.utils.files import write_atomically
from lctprune.workflows.deployment import deploy, deployment_record


def evaluate(
    run: RunArgument = None,
    latency_batch: BatchOption = 1,
    model: ModelOption = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Measure every exit anew: accuracy on the validation split, FLOPs, parameters, latency.

    Example:

    lctprune evaluate runs/mine --latency-batch 8 --threads 1
    """
    found = opened(run, model=model, data=data, threads=threads)
    candidates = measured(found, latency_batch=latency_batch, again=True)
    refresh_results(found, candidates)
    headline = f"{found.path} on its validation split"
    show_candidates(found, candidates, headline, latency_batch=latency_batch, json=json)


def report(
    run: RunArgument = None, model: ModelOption = None, data: DataOption = None, json: JsonOption = False
) -> None:
    """Write one self-contained HTML page about a run, and about what was selected from it.

    Example:

    lctprune report runs/mine
    """
    from lctprune.reports import report_page  # pandas and matplotlib take a second to import

    found = opened(run, model=model, data=data)
    candidates = measured(found, any_latency=True)
    path = found.path / "report.html"
    selection = present_selection(found)
    if selection is None:
        page = report_page(found, candidates)
    else:
        test = {**selection["test"], "main_accuracy": selection["main_network"]["test"]["accuracy"]}
        page = report_page(
            found,
            candidates,
            chosen=candidate_of(candidates, selection["exit"]),
            budget=selection["budget"],
            test=test,
        )
    write_atomically(path, page.encode())
    if json:
        print_json({"run": str(found.path), "report": str(path)})
    else:
        stdout().print(f"Wrote {path}")


def export(
    run: RunArgument = None,
    exit: Annotated[int | None, typer.Option("--exit", help="Which exit, from 0; by default the main network.")] = None,
    format: Annotated[str, typer.Option(help="Of the file: torchscript.")] = "torchscript",
    out: Annotated[Path | None, typer.Option(help="Folder for the file. Default: exports/exitK in the run.")] = None,
    model: ModelOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Export one exit to a file that runs without lctprune, with a model.json that says how to feed it.

    Example:

    lctprune export runs/mine --exit 1 --out deployed
    """
    found = opened(run, model=model, data=data)
    candidates = measured(found, any_latency=True)
    exit = candidate_of(candidates, main_of(candidates).exit if exit is None else exit).exit
    folder = out or found.path / "exports" / f"exit{exit}"
    deployment = deploy(found, candidates, exit, folder, format=format)
    if json:
        print_json(deployment_record(deployment))
    else:
        stdout().print(f"Wrote {deployment.model} and {deployment.description}")
