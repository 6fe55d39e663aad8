"""`lctprune compress`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lctprune.cli.console import print_json, print_notes, print_table, stderr, stdout
from lctprune.cli.options import (
    SWITCH,
    BudgetFlopsOption,
    BudgetLatencyOption,
    BudgetMacsOption,
    BudgetParamsOption,
    DownloadOption,
    JsonOption,
    NetworkArgument,
    RunDirectoryOption,
    Settings,
    ThreadsOption,
    use_threads,
    with_settings,
)
from lctprune.cli.parsing import data_places, group_count
from lctprune.config.compression import CompressConfig
from lctprune.config.data import DataConfig
from lctprune.config.fields import FIRST
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.errors import RunError
from lctprune.utils.wording import counted

if TYPE_CHECKING:
    from lctprune.workflows.compression_stages import Compressed, Compression

NETWORK = ("model_args", "groups", "split_at", "critic")
MUCH = 0.02  # given up, of accuracy or another score of at most 1
FEW_STEPS = 100  # of fine-tuning: after fewer, a network has not recovered from what was taken out
TRAINING = (
    "batch_size",
    "optimizer",
    "momentum",
    "weight_decay",
    "label_smoothing",
    "metric",
    "precision",
    "device",
    "seed",
)


@with_settings
def compress(
    model: NetworkArgument,
    data: Annotated[dict[str, Any], Settings(DataConfig, names={"name": "data"})],
    network: Annotated[dict[str, Any], Settings(NetworkConfig, only=NETWORK, unset=("groups",))],
    compression: Annotated[dict[str, Any], Settings(CompressConfig)],
    training: Annotated[dict[str, Any], Settings(TrainConfig, only=TRAINING)],
    weights: Annotated[
        str,
        typer.Option(
            metavar="FILE|RUN",
            rich_help_panel=FIRST,
            help="Weights of the network: a state dict, a run directory, or default, the model's own.",
        ),
    ],
    budget_flops: BudgetFlopsOption = None,
    budget_macs: BudgetMacsOption = None,
    budget_params: BudgetParamsOption = None,
    budget_latency_ms: BudgetLatencyOption = None,
    out: RunDirectoryOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", metavar=SWITCH, rich_help_panel=FIRST, help="Continue the compression in --out where it stood."
        ),
    ] = False,
    download: DownloadOption = False,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Compress a trained network to a budget, and export the result.

    It trains critics on the network, takes channels out of it and of its exits until they fit the budget, fine-tunes
    the most promising ones with the network as their teacher, and exports the best one by validation. Exit code 3:
    nothing can fit the budget, and nothing was trained.

    Example:
    lctprune compress resnet18 --weights trained.safetensors --data DIR --budget-flops 50%
    """
    if resume and out is None:
        raise RunError("to resume, name the run directory: --out DIR")
    from lctprune.cli.working import load_pytorch, working

    load_pytorch(model)
    use_threads(threads)
    from lctprune.measure.selection import Budget
    from lctprune.workflows.compression import begin_compression

    limits = {"flops": budget_flops, "macs": budget_macs, "parameters": budget_params, "latency_ms": budget_latency_ms}
    with working("Preparing the compression"):
        begun = begin_compression(
            NetworkConfig(model=model, **network | {"groups": group_count(network | {"balance": "flops"})}),
            DataConfig(**data_places(data), seed=training["seed"]),
            Budget(**limits),
            weights=weights,
            config=CompressConfig(**compression),
            training=TrainConfig(**training),
            out=out,
            resume=resume,
            download=download,
        )
    complete(begun, json=json)


def complete(begun: Compression, *, json: bool) -> None:
    """Take a compression to its end, and show what it came to."""
    from lctprune.cli.progress import InterruptedCommand
    from lctprune.cli.working import working

    _show_plan(begun)
    try:
        _train(begun)
        with working("Measuring all candidates, then the chosen one on the test split"):
            result = begun.finish()
    except KeyboardInterrupt as error:
        raise InterruptedCommand.of(error, f"to go on: {begun.run.command('resume')}") from error
    _write_results(result)
    if json:
        print_json(_record(result))
    else:
        _show(result)


def _show_plan(begun: Compression) -> None:
    from lctprune.config.metric import score_text
    from lctprune.measure.units import amount

    console = stderr()
    if given := begun.run.config.given:
        score = score_text(given.score, given.metric)
        console.print(f"Given network: {given.metric} {score} on {given.samples} validation samples")
    budget = " and ".join(amount(limit, cost) for cost, limit in begun.limits.items())
    console.print(f"Plan to get to {budget} in {begun.run.path}:")
    rows = [
        {
            "stage": line.stage,
            "what": line.what,
            "networks": str(line.networks),
            "passes": f"{line.passes:.2f}",
            "cost": f"{line.cost:.2f}",
        }
        for line in begun.plan
    ]
    print_table(console, rows, dispensable=["networks"], left=("stage", "what"))
    if begun.done:
        console.print(f"Already done: {', '.join(begun.done)}.")
    whole, steps = sum(line.cost for line in begun.plan), begun.tuning_steps
    console.print(
        f"Passes are over the training split, of each network; costs are epochs of the given network's own training, "
        f"{whole:.2f} in all."
    )
    if steps < FEW_STEPS:
        console.print(
            f"Note: {counted(steps, 'step')} of fine-tuning are too few to recover from what is taken out; more "
            f"--epochs ({math.ceil(whole * FEW_STEPS / max(1, steps))} make about {FEW_STEPS}), or a smaller "
            "--batch-size, may help."
        )


def _train(begun: Compression) -> None:
    from lctprune.cli.progress import note_on_threads, show_progress
    from lctprune.cli.working import working
    from lctprune.workflows.members import trained_exits

    console, shown = stderr(), 0
    note_on_threads()
    stages = begun.stages()
    while True:
        with working("Preparing the next stage"):
            stage = next(stages, None)
        if stage is None:
            break
        print_notes(console, begun.notes[shown:])
        shown = len(begun.notes)
        console.print(f"{stage.name}: {stage.what}")
        names, first = trained_exits(stage.session.opened)
        show_progress(stage.session.steps(), console, names, first=first, has_legend=len(names) > 1)
    print_notes(console, begun.notes[shown:])


def _write_results(result: Compressed) -> None:
    from lctprune.cli.results import write_results

    write_results(result.run, result.candidates, result.run.path, chosen=result.chosen, limits=result.limits)


def _show(result: Compressed) -> None:
    from lctprune.cli.console import megabytes, quantity
    from lctprune.config.metric import score_text
    from lctprune.workflows.members import FINETUNED, NARROWED, members_of
    from lctprune.workflows.next_steps import like_chance, selection_of_another

    main, chosen, deployment, console = result.main, result.chosen, result.deployment, stdout()
    metric = chosen.metric
    rows = []
    for name, candidate, score in (
        ("before", main, deployment.main_test_score),
        ("after", chosen, deployment.test_score),
    ):
        rows.append(
            {
                "": name,
                f"test {metric}": score_text(score, metric),
                f"validation {metric}": score_text(candidate.score, metric),
                "FLOPs": quantity(candidate.flops),
                "params": quantity(candidate.parameters),
                "latency": "?" if candidate.latency_ms is None else f"{candidate.latency_ms:.2f} ms",
                "size": megabytes(candidate.size_bytes),
            }
        )
    console.print(f"\nChosen: {chosen.name}{'' if chosen.origin else ', an exit of the network'}\n")
    print_table(console, rows, dispensable=["size", "params"], left=("",))
    cost = f"Training cost {result.spent:.2f} epochs of the network's own"
    before, after = deployment.main_test_score, deployment.test_score
    if before is not None and after is not None and metric != "loss" and before - after > MUCH:
        cost += "; to win back some of what was given up, compress again with more --epochs, into another --out"
    console.print(f"\n{_given_up(result)}. {cost}.")
    if note := like_chance(result.run, result.candidates, chosen):
        stderr().print(
            f"Note: {note}; compress again with more --epochs, into another --out, or with more data.", soft_wrap=True
        )
    console.print(f"Exported: {deployment.model} (how to feed it: model.json beside it).", soft_wrap=True)
    trained = {each.number for each in members_of(result.run) if each.run.path.parent.name in (NARROWED, FINETUNED)}
    another = selection_of_another(result.run, result.candidates, chosen, trained)
    budget = f"; another budget: {another}" if another else ""
    console.print(f"All candidates: {result.run.path}/candidates.csv{budget}", soft_wrap=True)


def _given_up(result: Compressed) -> str:
    before, after = result.deployment.main_test_score, result.deployment.test_score
    metric = result.chosen.metric
    if before is None or after is None:
        return "Given up: not known"
    lost = after - before if metric == "loss" else before - after
    own = {"loss": f"{abs(lost):.4g} of test loss", "R2": f"{abs(lost):.3f} of test R2"}
    amount = own.get(metric, f"{100 * abs(lost):.1f} points of test {metric}")
    return f"{'Gained' if lost < 0 else 'Given up'}: {amount}"


def _record(result: Compressed) -> dict[str, Any]:
    from lctprune.workflows.deployed import deployment_record
    from lctprune.workflows.model_card import candidate_record

    return {
        "run": str(result.run.path),
        "budget": dict(result.limits),
        "before": candidate_record(result.main),
        "selected": candidate_record(result.chosen),
        "candidates": [candidate_record(candidate) for candidate in result.candidates],
        "spent_epochs": result.spent,
        **deployment_record(result.deployment),
    }
