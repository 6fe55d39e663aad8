"""`lctprune densify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lctprune.cli.console import stderr
from lctprune.cli.options import DataOption, JsonOption, ModelOption, ResumeOption, RunArgument, ThreadsOption

if TYPE_CHECKING:
    from lctprune.runs import Run


def densify(
    run: RunArgument = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Passes over the training split. Default: as many as cost a fifth of the run's training, at least 1.",
        ),
    ] = None,
    resume: ResumeOption = False,
    model: ModelOption = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Add critics to a trained run: at cut points that have none, and narrower ones everywhere.

    The main network and the critics that are there stay as they are, to the last bit.

    Example:
    lctprune densify runs/mine
    """
    from lctprune.cli.results import opened, show_all

    found = opened(run, model=model, data=data, threads=threads)
    add_critics(found, epochs=epochs, resume=resume)
    show_all(found, json=json)


def add_critics(run: Run, *, epochs: int | None = None, resume: bool = False) -> None:
    """Train critics at further cut points, and show progress."""
    from lctprune.cli.progress import show_interruptible
    from lctprune.cli.working import working
    from lctprune.utils.wording import counted
    from lctprune.workflows.densification import begin_dense, cost_text

    with working("Preparing the critics"):
        session = begin_dense(run, epochs=epochs, resume=resume)
    stderr().print(
        f"Training {len(session.network.critics)} further critics on the main network of {run.path}, which stays as it "
        f"is; {counted(session.opened.config.training.epochs, 'epoch')}, at {cost_text(run, session.cost)}"
    )
    show_interruptible(session.steps(), session.opened)
