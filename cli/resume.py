"""`lctprune resume`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lctprune.cli.console import printed_warnings, stderr
from lctprune.cli.options import DataOption, JsonOption, ModelOption, ThreadsOption, existing_runs, use_threads
from lctprune.errors import RunError

if TYPE_CHECKING:
    from lctprune.runs import Run


def resume(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            show_default=False,
            callback=existing_runs,
            help="Run directory. Default: the newest one that is not finished.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Train longer, or less long: epochs in all. Default: as it was begun."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Processes on this machine. Default: as many as it was begun with."),
    ] = None,
    model: ModelOption = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Go on with a run that was interrupted, from its last whole epoch; or train a finished one longer.

    All settings are those that the run recorded. With more epochs, the learning rate goes on as in a training of so
    many.

    Examples:
    lctprune resume

    lctprune resume runs/mine --epochs 60
    """
    from lctprune.cli.progress import show_interruptible
    from lctprune.cli.results import show_all
    from lctprune.cli.train import start
    from lctprune.runs import Run
    from lctprune.training.distributed.process_group import is_started
    from lctprune.workflows.going_on import (
        began_as_compression,
        lacks_critics,
        resume_added,
        resumed_settings,
        started_with,
    )
    from lctprune.workflows.next_steps import has_additions
    from lctprune.workflows.run_choice import unfinished_addition

    path = run or _newest(epochs)
    found = Run(path, model=model, data_path=data)
    if began_as_compression(found):
        _resume_compression(found, epochs=epochs, processes=processes, data=data, threads=threads, json=json)
        return
    added = None
    if epochs is None:
        added = found if found.config.origin else unfinished_addition(found) if found.is_finished else None
    if added is not None:
        stderr().print(f"Going on with {added.path}, from epoch {added.epochs_done + 1}")
        with printed_warnings(stderr()):
            owner, session = resume_added(added, model=model, data=data)
        show_interruptible(session.steps(), session.opened)
        show_all(owner, json=json, added=added)
        return
    if epochs == found.epochs_done or (epochs is None and found.is_finished and not lacks_critics(found)):
        _show_finished(found, threads=threads, json=json)
        return
    settings = resumed_settings(found, epochs=epochs, data=data)
    if epochs is not None:
        stderr().print(
            f"From epoch {found.epochs_done + 1} on, the learning rate goes on as in a training of {epochs} epochs; "
            f"so far it was one of {found.config.training.epochs}"
        )
        if has_additions(found):
            stderr().print(
                "Note: the networks that densify, finetune and narrow added belong to the present weights; they no "
                "longer count once these are trained further."
            )
    replicas = started_with(found, "--replicas")
    begun_with = 1 if is_started() else started_with(found, "--processes")
    count = begun_with if processes is None else processes
    arguments = [*sys.argv[1:], *([str(path)] if run is None else [])]
    start(settings, arguments, processes=count, replicas=replicas, timeout=20, threads=threads, json=json)


def _newest(epochs: int | None) -> Path:
    """Return the newest run that is not finished; where there is none, and nothing else is asked for, the newest."""
    from lctprune.workflows.run_choice import newest_run, newest_unfinished

    try:
        return newest_unfinished()
    except RunError:
        if epochs is None:
            with suppress(RunError):
                return newest_run().path
        raise


def _show_finished(run: Run, *, threads: int | None, json: bool) -> None:
    """Say that a run has all its epochs, and show its networks and what comes next."""
    from lctprune.cli.results import show_all
    from lctprune.training.distributed.process_group import is_started

    if is_started() and os.environ["RANK"] != "0":
        return
    use_threads(threads)
    done = run.epochs_done
    longer = run.command("resume", "--epochs", str(2 * done))
    stderr().print(f"{run.path} is trained to epoch {done} already; to train it longer: {longer}", soft_wrap=True)
    show_all(run, json=json)


def _resume_compression(
    run: Run, *, epochs: int | None, processes: int | None, data: Path | None, threads: int | None, json: bool
) -> None:
    from lctprune.cli.compress import complete
    from lctprune.cli.results import show_all
    from lctprune.workflows.compression import resume_compression

    given = "--epochs" if epochs is not None else "--processes" if processes is not None else None
    if given:
        raise typer.BadParameter(f"{run.path} is a compression, which keeps its plan; leave out {given}")
    use_threads(threads)
    with printed_warnings(stderr()):
        begun = resume_compression(run, data=data)
    if begun.is_finished:
        stderr().print(f"{run.path} is compressed to its end already.", soft_wrap=True)
        show_all(run, json=json)
    else:
        complete(begun, json=json)
