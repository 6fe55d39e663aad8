"""The commands that add networks to a finished run: densify, finetune."""

from __future__ import annotations

from typing import Annotated

import typer

from lctprune.cli.console import stderr
from lctprune.cli.measured import (
    DataOption,
    JsonOption,
    ModelOption,
    RunArgument,
    ThreadsOption,
    measured,
    opened,
    refresh_results,
    show_candidates,
)
from lctprune.cli.progress import show_progress
from lctprune.errors import ConfigError
from lctprune.runs import Run
from lctprune.training.trainer import train_steps
from lctprune.workflows.densification import begin_dense
from lctprune.workflows.finetuning import begin_finetuning

ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last whole epoch.")]


def densify(
    run: RunArgument = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: as many as cost a fifth of the run's training, at least 1.")
    ] = None,
    resume: ResumeOption = False,
    model: ModelOption = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Add critics to a trained run: at the places that have none, and narrower ones everywhere.

    The main network and the critics that are there stay as they are, to the last bit.

    Example:

    lctprune densify runs/mine
    """
    found = opened(run, model=model, data=data, threads=threads)
    add_critics(found, epochs=epochs, resume=resume)
    _show(found, json=json)


def add_critics(run: Run, *, epochs: int | None = None, resume: bool = False) -> None:
    """Train critics at further places, and show how it goes."""
    begun = begin_dense(run, epochs=epochs, resume=resume)
    assert begun.run is not None
    stderr().print(
        f"Training {len(begun.network.critics)} further critics on the main network of {run.path}, which stays as it "
        f"is; epochs: {begun.run.config['training']['epochs']}"
    )
    show_progress(train_steps(begun.network, begun.data, begun.run), stderr())


def finetune(
    run: RunArgument = None,
    exit: Annotated[int | None, typer.Option("--exit", help="Which network, by its number.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training split. Default: 1.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate. Default: a fifth of the run's.")] = None,
    distill: Annotated[
        float | None,
        typer.Option(
            help="Share of the loss that is the distance to the main network's outputs; 0: labels only. Default: 0.5."
        ),
    ] = None,
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
    if exit is None:
        raise ConfigError("--exit says which network to fine-tune; lctprune evaluate lists them")
    found = opened(run, model=model, data=data, threads=threads)
    begun = begin_finetuning(found, exit, epochs=epochs, lr=lr, distill=distill, resume=resume)
    stderr().print(f"Fine-tuning exit {exit} of {found.path} in {begun.run.path}")
    steps = train_steps(begun.network, begun.data, begun.run, loss=begun.loss, validation_loss=begun.validation_loss)
    show_progress(steps, stderr())
    _show(found, json=json)


def _show(run: Run, *, json: bool) -> None:
    """The whole family as it is now."""
    candidates = measured(run)
    refresh_results(run, candidates)
    show_candidates(run, candidates, f"\n{run.path}, all its networks on the validation split", json=json)
