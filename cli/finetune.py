"""`lctprune finetune`."""

from __future__ import annotations

from typing import Annotated

import typer

from lctprune.cli.console import stderr
from lctprune.cli.options import (
    DataOption,
    JsonOption,
    ModelOption,
    ResumeOption,
    RunArgument,
    TaughtEpochsOption,
    TaughtRateOption,
    TeacherOption,
    ThreadsOption,
)
from lctprune.errors import ConfigError


def finetune(
    run: RunArgument = None,
    exit: Annotated[
        str | None,
        typer.Option("--exit", metavar="K|NAME", help="Exit, by its number or name, as evaluate shows them."),
    ] = None,
    epochs: TaughtEpochsOption = None,
    lr: TaughtRateOption = None,
    distill: TeacherOption = None,
    resume: ResumeOption = False,
    model: ModelOption = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Train one exit further, through all its layers, with the main network as its teacher.

    The result is one more candidate of the run; the exit itself stays as it is.

    Example:
    lctprune finetune runs/mine --exit 1 --epochs 2
    """
    from lctprune.cli.progress import show_interruptible
    from lctprune.cli.results import opened, show_all
    from lctprune.cli.working import working
    from lctprune.workflows.finetuning import begin_finetuning
    from lctprune.workflows.members import member_named

    found = opened(run, model=model, data=data, threads=threads)
    if exit is None:
        raise ConfigError(f"--exit says which network to fine-tune; this lists them: {found.command('evaluate')}")
    member = member_named(found, exit)
    with working("Preparing the training"):
        session = begin_finetuning(found, member.number, epochs=epochs, lr=lr, distill=distill, resume=resume)
    stderr().print(f"Fine-tuning {member.name} of {found.path} in {session.opened.path}")
    show_interruptible(session.steps(), session.opened)
    show_all(found, json=json, added=session.opened)
