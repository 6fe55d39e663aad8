"""`lctprune narrow`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from lctprune.cli.console import print_notes, stderr
from lctprune.cli.options import (
    BudgetFlopsOption,
    BudgetLatencyOption,
    BudgetMacsOption,
    BudgetParamsOption,
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


def narrow(
    run: RunArgument = None,
    exit: Annotated[
        str | None,
        typer.Option(
            "--exit",
            metavar="K|NAME",
            help="Exit, by its number or name, as evaluate shows them. Default: the main network.",
        ),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="FRACTION", help="FLOPs to keep, of that network's: 70% or 0.7.")
    ] = None,
    budget_flops: BudgetFlopsOption = None,
    budget_macs: BudgetMacsOption = None,
    budget_params: BudgetParamsOption = None,
    budget_latency_ms: BudgetLatencyOption = None,
    importance: Annotated[
        Literal["auto", "magnitude", "bn", "lamp", "taylor", "exits"],
        typer.Option(
            metavar="CRITERION",
            help="Which channels matter: magnitude of weights, bn (scale of batch norm), lamp, taylor (change of the "
            "exit's loss without them), exits (of all exits' losses up to it), or auto: that of magnitude and taylor "
            "whose mild cut leaves the lower loss on training samples.",
        ),
    ] = "auto",
    epochs: TaughtEpochsOption = None,
    lr: TaughtRateOption = None,
    distill: TeacherOption = None,
    resume: ResumeOption = False,
    model: ModelOption = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Take channels out of one exit, by Torch-Pruning, and train it on with the main network as its teacher.

    The result is one more candidate of the run; the exit itself stays as it is. Give --keep, or a budget that it is to
    fit. Exit code 3: it does not fit even with the fewest channels.

    Examples:
    lctprune narrow runs/mine --keep 70%

    lctprune narrow runs/mine --exit 2 --budget-flops 500M --epochs 2
    """
    from lctprune.cli.progress import show_interruptible
    from lctprune.cli.results import opened, show_all
    from lctprune.cli.working import working
    from lctprune.measure.selection import Budget
    from lctprune.workflows.members import member_named
    from lctprune.workflows.narrowing import begin_narrowing
    from lctprune.workflows.narrowing_targets import require_target

    limits = {"flops": budget_flops, "macs": budget_macs, "parameters": budget_params, "latency_ms": budget_latency_ms}
    budget = Budget(**limits) if any(limits.values()) else None
    require_target(keep, budget)
    found = opened(run, model=model, data=data, threads=threads)
    number = member_named(found, exit).number
    with working("Taking channels out"):
        session = begin_narrowing(
            found,
            number,
            keep=keep,
            budget=budget,
            importance=importance,
            epochs=epochs,
            lr=lr,
            distill=distill,
            resume=resume,
        )
    stderr().print(f"Narrowed in {session.opened.path}; training it on with the main network as its teacher")
    print_notes(stderr(), session.network.notes)
    show_interruptible(session.steps(), session.opened)
    show_all(found, json=json, added=session.opened, budget=budget)
