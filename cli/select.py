"""`lctprune select`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lctprune.cli.console import print_json, printed_warnings, stderr, stdout
from lctprune.cli.options import (
    BatchOption,
    BudgetFlopsOption,
    BudgetLatencyOption,
    BudgetMacsOption,
    BudgetParamsOption,
    DataOption,
    JsonOption,
    ModelOption,
    OutOption,
    PartialOption,
    RunArgument,
    ThreadsOption,
)
from lctprune.errors import BudgetError
from lctprune.utils.names import shell_word

if TYPE_CHECKING:
    from lctprune.measure.candidates import Candidate
    from lctprune.workflows.deployment import Deployment
    from lctprune.workflows.loading import LoadedRun


def select(
    run: RunArgument = None,
    budget_flops: BudgetFlopsOption = None,
    budget_macs: BudgetMacsOption = None,
    budget_params: BudgetParamsOption = None,
    budget_latency_ms: BudgetLatencyOption = None,
    latency_batch: BatchOption = 1,
    model: ModelOption = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    out: OutOption = None,
    partial: PartialOption = False,
    json: JsonOption = False,
) -> None:
    """Pick the best exit that fits a budget, and export it.

    Every limit may be a number (1e9, 1G, 500M) or a percentage of the main network (60%). The best exit has the highest
    accuracy on the validation split, or what train's --metric says. The test split is read once, for the exit that was
    chosen. Exit code 3: nothing fits.

    Examples:
    lctprune select --budget-flops 1e9

    lctprune select runs/mine --budget-latency-ms 5 --budget-params 60%
    """
    from lctprune.cli.results import measured, opened, results_folder, write_results
    from lctprune.measure.candidates import left_out
    from lctprune.measure.selection import Budget, cheaper_alternative, main_of, near_misses
    from lctprune.measure.selection import select as choose
    from lctprune.workflows.deployment import SELECTED, deploy
    from lctprune.workflows.loading import LoadedRun

    budget = Budget(flops=budget_flops, macs=budget_macs, parameters=budget_params, latency_ms=budget_latency_ms)
    found = opened(run, model=model, data=data, threads=threads, partial=partial)
    loaded = LoadedRun(found)
    folder = results_folder(found, out, SELECTED)
    results = found.path if out is None and folder else out
    candidates = measured(found, results, latency_batch=latency_batch, loaded=loaded)
    limits = budget.limits(main_of(candidates))
    try:
        chosen = choose(candidates, limits)
    except BudgetError as error:
        densify = f"lctprune densify {shell_word(found.path)}{f' --model {shell_word(model)}' if model else ''}"
        message = str(error).replace("lctprune densify", densify)
        raise BudgetError(message, error.nearest, error.misses) from error
    if unknown := left_out(candidates, limits):
        stderr().print(f"Note: {unknown}.")
    for near in near_misses(candidates, limits, chosen)[:1]:
        stderr().print(f"Note: {near.name} has {_shown(near)} and misses the budget by {limits.excess(near) - 1:.1%}.")
    alternative = cheaper_alternative(candidates, limits, chosen)
    with printed_warnings(stderr()), stderr().status("Exporting, and measuring on the test split"):
        deployment = deploy(found, candidates, chosen.exit, folder, budget=limits, measure_test=True, loaded=loaded)
    write_results(found, candidates, results, chosen=chosen, limits=limits)
    if json:
        print_json(_record(loaded, candidates, chosen, alternative, deployment, limits))
    else:
        _show(loaded, candidates, chosen, alternative, deployment, limits, latency_batch, results)


def _show(
    loaded: LoadedRun,
    candidates: Sequence[Candidate],
    chosen: Candidate,
    alternative: Candidate | None,
    deployment: Deployment,
    limits: Mapping[str, float],
    latency_batch: int,
    results: Path | None,
) -> None:
    from lctprune.cli.results import show_candidates
    from lctprune.config.metric import score_text
    from lctprune.measure.selection import main_of

    main = main_of(candidates)
    headline = f"{loaded.run.path}, exits on the validation split"
    show_candidates(loaded.run, candidates, headline, epochs=loaded.epochs, chosen=chosen, latency_batch=latency_batch)
    console = stdout()
    console.print(f"\nChosen: {chosen.name}, {_reason(chosen, limits)}.")
    if alternative:
        console.print(
            f"Alternative: {alternative.name} costs {_fraction(alternative.flops, chosen.flops)} of its FLOPs, and its "
            f"{alternative.metric} of {_shown(alternative)} is not shown to be worse on {chosen.samples} samples."
        )
    if chosen is not main:
        console.print(
            f"Against the main network: {_fraction(chosen.flops, main.flops)} of the FLOPs, "
            f"{_fraction(chosen.parameters, main.parameters)} of the parameters, "
            f"{_fraction(chosen.latency_ms, main.latency_ms)} of the latency."
        )
    console.print(
        f"Test {chosen.metric} ({deployment.test_samples} samples, read for this only): "
        f"{score_text(deployment.test_score, chosen.metric)}; main network "
        f"{score_text(deployment.main_test_score, chosen.metric)}."
    )
    if results is None or deployment.model_card is None:
        console.print("Not exported: the run cannot be written; --out DIR writes elsewhere.")
        return
    card = deployment.model_card.name
    console.print(f"Exported: {deployment.model} (how to feed it: {card} beside it).", soft_wrap=True)
    console.print(f"Tables and plots: {results}/candidates.csv, pareto.png, pareto.svg.", soft_wrap=True)


def _reason(chosen: Candidate, limits: Mapping[str, float]) -> str:
    from lctprune.config.metric import best_text

    best = best_text(chosen.metric)
    if not limits:
        return f"{best} of all at {_shown(chosen)} (no budget was given)"
    from lctprune.measure.units import amount

    bounds = " and ".join(amount(limit, cost) for cost, limit in limits.items())
    return f"{best} that fits {bounds}: {_shown(chosen)} on validation"


def _shown(candidate: Candidate) -> str:
    from lctprune.config.metric import score_text

    return score_text(candidate.score, candidate.metric)


def _fraction(cost: float | None, whole: float | None) -> str:
    return f"{cost / whole:.0%}" if cost is not None and whole else "an unknown fraction"


def _record(
    loaded: LoadedRun,
    candidates: Sequence[Candidate],
    chosen: Candidate,
    alternative: Candidate | None,
    deployment: Deployment,
    limits: Mapping[str, float],
) -> dict[str, Any]:
    from lctprune.workflows.deployment import deployment_record
    from lctprune.workflows.model_card import candidate_record

    return {
        "run": str(loaded.run.path),
        **loaded.epochs,
        "budget": dict(limits),
        "selected": candidate_record(chosen),
        "alternative": candidate_record(alternative) if alternative else None,
        "candidates": [candidate_record(candidate) for candidate in candidates],
        **deployment_record(deployment),
    }
