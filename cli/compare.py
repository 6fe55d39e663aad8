"""`lctprune compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lctprune.cli.console import print_json, stdout
from lctprune.cli.options import OUTPUT, BatchOption, JsonOption, PartialOption, ThreadsOption, existing_runs


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", callback=existing_runs, help="Run directories, of any method."),
    ],
    latency_batch: BatchOption = 1,
    threads: ThreadsOption = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", rich_help_panel=OUTPUT, help="Folder for the table and the plot."),
    ] = Path("comparison"),
    partial: PartialOption = False,
    json: JsonOption = False,
) -> None:
    """Put the networks of several runs into one table and one plot.

    The runs must be of the same data; by which method each was trained does not matter. Networks that were measured on
    the same validation samples are compared in pairs with the best of all.

    Example:
    lctprune compare runs/a runs/b
    """
    from lctprune.cli.comparing import (
        comparison_records,
        measured_all,
        opened_others,
        show_comparison,
        write_comparison,
    )
    from lctprune.cli.results import opened
    from lctprune.utils.files import require_writable

    first = opened(runs[0], threads=threads, partial=partial)
    named = opened_others(first, runs[1:], partial=partial)
    require_writable(out, "choose another --out")
    found = measured_all(named, latency_batch=latency_batch)
    write_comparison(found, out)
    if json:
        print_json({"candidates": comparison_records(found)})
        return
    show_comparison(found)
    stdout().print(f"Table and plots: {out}/comparison.csv, comparison.png, comparison.svg.", soft_wrap=True)
