"""`lctprune select`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lctprune.cli.console import print_json, stderr, stdout
from lctprune.cli.options import (
    BatchOption,
    BudgetFlopsOption,
    BudgetLatencyOption,
    BudgetMacsOption,
    BudgetParamsOption,
    BudgetSizeOption,
    CompareOption,
    DataOption,
    JsonOption,
    MaxDropOption,
    MeanFlopsOption,
    MinAccuracyOption,
    ModelOption,
    OutOption,
    PartialOption,
    PrecisionOption,
    PreferOption,
    RunArgument,
    RuntimeOption,
    ThreadsOption,
)
from lctprune.errors import BudgetError

if TYPE_CHECKING:
    from lctprune.measure.candidates import Candidate
    from lctprune.measure.rules import Rule
    from lctprune.workflows.deployed import Deployment
    from lctprune.workflows.loading import LoadedRun


def select(
    run: RunArgument = None,
    budget_flops: BudgetFlopsOption = None,
    budget_macs: BudgetMacsOption = None,
    budget_params: BudgetParamsOption = None,
    budget_latency_ms: BudgetLatencyOption = None,
    budget_size: BudgetSizeOption = None,
    max_drop: MaxDropOption = None,
    min_accuracy: MinAccuracyOption = None,
    prefer: PreferOption = None,
    mean_flops: MeanFlopsOption = False,
    compare: CompareOption = None,
    latency_batch: BatchOption = 1,
    runtime: RuntimeOption = "torchscript",
    precision: PrecisionOption = "fp32",
    model: ModelOption = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    out: OutOption = None,
    partial: PartialOption = False,
    json: JsonOption = False,
) -> None:
    """Pick the best exit that fits a budget, and export it.

    Every limit may be a number (1e9, 1G, 500M) or a percentage of the main network (60%). The best exit has the highest
    accuracy on the validation split, or what train's --metric says. With --max-drop or --min-accuracy the cheapest exit
    that is good enough is picked. The test split is read once, for the exit that was chosen. Exit code 3: nothing fits.
    With --runtime, latencies are those of the runtime, and the file is one that it runs. Ensembles that lctprune
    ensemble found take part; the network of lctprune progressive does with --mean-flops.

    Examples:
    lctprune select --budget-flops 1e9

    lctprune select runs/mine --budget-latency-ms 5 --budget-params 60% --runtime onnxruntime

    lctprune select --max-drop 1.0 --prefer cheapest-equivalent
    """
    from lctprune.cli.comparing import (
        comparison_records,
        measured_all,
        opened_others,
        show_comparison,
        write_comparison,
    )
    from lctprune.cli.reasons import shown
    from lctprune.cli.results import measured, opened, results_folder, write_results
    from lctprune.cli.working import working
    from lctprune.measure.candidates import left_out
    from lctprune.measure.choice import cheaper_alternative
    from lctprune.measure.choice import select as choose
    from lctprune.measure.rules import Rule
    from lctprune.measure.runtimes import FORMATS
    from lctprune.measure.selection import Budget, main_of, near_misses
    from lctprune.workflows.combined_candidates import left_out_means
    from lctprune.workflows.deployment import deploy
    from lctprune.workflows.loading import LoadedRun, require_executable
    from lctprune.workflows.model_card import SELECTED
    from lctprune.workflows.selections import chosen_before
    from lctprune.workflows.smaller import with_remedy

    budget = Budget(
        flops=budget_flops,
        macs=budget_macs,
        parameters=budget_params,
        latency_ms=budget_latency_ms,
        size_bytes=budget_size,
    )
    rule = Rule(max_drop=max_drop, min_accuracy=min_accuracy, prefer=prefer)
    found = opened(run, model=model, data=data, threads=threads, partial=partial)
    loaded = LoadedRun(found)
    require_executable(found)  # before it measures anything
    (name, _), *others = opened_others(found, compare or [], partial=partial).items()
    folder = results_folder(found, out, SELECTED)
    results = found.path if out is None and folder else out
    candidates = measured(
        found,
        results,
        latency_batch=latency_batch,
        runtime=runtime,
        precision=precision,
        loaded=loaded,
        mean_flops=mean_flops,
        steady=budget.latency_ms is not None,
    )
    limits = budget.limits(main_of(candidates))
    try:
        chosen = choose(candidates, limits, rule)
    except BudgetError as error:
        with working("Looking whether densify or narrow adds a network that fits"):
            explained = with_remedy(error, loaded, candidates, limits)
        raise explained from error
    if unknown := left_out(candidates, limits):
        stderr().print(f"Note: {unknown}.")
    if not mean_flops and (progressive := left_out_means(loaded)):
        stderr().print(f"Note: {progressive}.", soft_wrap=True)
    for near in near_misses(candidates, limits, chosen)[:1]:
        stderr().print(f"Note: {near.name} has {shown(near)} and misses the budget by {limits.excess(near) - 1:.1%}.")
    alternative = cheaper_alternative(candidates, limits, chosen, rule, classes=found.class_count)
    earlier, formats = chosen_before(folder), [FORMATS[chosen.latency_runtime]]
    with working("Exporting, and measuring on the test split"):
        deployment = deploy(
            found,
            candidates,
            chosen.exit,
            folder,
            formats=formats if chosen.is_reduced or chosen.combined else [*formats, "state-dict"],
            apart=chosen.latency_runtime != "torchscript",
            precision=chosen.precision,
            budget=limits,
            rule=rule,
            measure_test=True,
            loaded=loaded,
        )
    if earlier and earlier != chosen.name:
        stderr().print(f"Note: {folder} held {earlier} from before; {chosen.name} has replaced it.", soft_wrap=True)
    write_results(found, candidates, results, chosen=chosen, limits=limits)
    runs = {name: candidates} | measured_all(dict(others), latency_batch=latency_batch) if others else {}
    if runs and results:
        write_comparison(runs, results)
    if json:
        document = _record(loaded, candidates, chosen, alternative, deployment, limits, rule)
        print_json(document | ({"compared": comparison_records(runs)} if runs else {}))
        return
    _show(loaded, candidates, chosen, alternative, deployment, limits, rule, results)
    if runs:
        stdout().print("\nBeside the other runs, which nothing was chosen from:\n")
        show_comparison(runs)


def _show(
    loaded: LoadedRun,
    candidates: Sequence[Candidate],
    chosen: Candidate,
    alternative: Candidate | None,
    deployment: Deployment,
    limits: Mapping[str, float],
    rule: Rule,
    results: Path | None,
) -> None:
    from lctprune.cli.reasons import against_best, fraction, latency_against, reason, shown, tested
    from lctprune.cli.results import show_candidates
    from lctprune.config.combined import PROGRESSIVE
    from lctprune.config.metric import score_text
    from lctprune.measure.selection import main_of
    from lctprune.workflows.next_steps import CLEARLY, after_selection

    main = main_of(candidates)
    headline = f"{loaded.run.path}, exits on the validation split"
    show_candidates(loaded.run, candidates, headline, epochs=loaded.epochs, chosen=chosen, limits=limits)
    console = stdout()
    console.print(f"\nChosen: {chosen.name}, {reason(candidates, chosen, limits, rule)}.")
    if comparison := against_best(candidates, chosen, limits):
        console.print(comparison)
    if alternative:
        few = ", which are too few to tell" if chosen.merit - alternative.merit > CLEARLY else ""
        console.print(
            f"Alternative: {alternative.name} has {fraction(alternative.flops, chosen.flops)} of the FLOPs of "
            f"{chosen.name}, and its {alternative.metric} of {shown(alternative)} is not shown to be worse on "
            f"{chosen.samples} samples{tested(chosen, alternative)}{few}."
        )
    if chosen is not main:
        mean = " in the mean of samples" if chosen.combined == PROGRESSIVE else ""
        console.print(
            f"Against the main network: {fraction(chosen.flops, main.flops)} of the FLOPs{mean}, "
            f"{fraction(chosen.parameters, main.parameters)} of the parameters, "
            f"{latency_against(candidates, chosen)}."
        )
    console.print(
        f"Test {chosen.metric} ({deployment.test_samples} samples, read for this only): "
        f"{score_text(deployment.test_score, chosen.metric)}{_error(deployment.test_rmse)}; main network "
        f"{score_text(deployment.main_test_score, chosen.metric)}{_error(deployment.main_test_rmse)}."
    )
    if results is None or deployment.model is None or deployment.model_card is None:
        console.print("Not exported: the run cannot be written; --out DIR writes elsewhere.")
        return
    card = deployment.model_card.name
    console.print(f"Exported: {deployment.model} (how to feed it: {card} beside it).", soft_wrap=True)
    console.print(f"Tables and plots: {results}/candidates.csv, pareto.png, pareto.svg.", soft_wrap=True)
    if following := after_selection(loaded.run, deployment.model, is_inside=results == loaded.run.path):
        console.print(following, soft_wrap=True)


def _error(rmse: float | None) -> str:
    from lctprune.measure.units import number_text

    return "" if rmse is None else f", RMSE {number_text(rmse)}"


def _record(
    loaded: LoadedRun,
    candidates: Sequence[Candidate],
    chosen: Candidate,
    alternative: Candidate | None,
    deployment: Deployment,
    limits: Mapping[str, float],
    rule: Rule,
) -> dict[str, Any]:
    from lctprune.measure.choice import not_faster, straddling
    from lctprune.measure.paired import pairing
    from lctprune.workflows.deployed import deployment_record
    from lctprune.workflows.model_card import candidate_record

    return {
        "run": str(loaded.run.path),
        **loaded.epochs,
        "budget": dict(limits),
        "rule": dataclasses.asdict(rule),
        "selected": candidate_record(chosen),
        "alternative": candidate_record(alternative) if alternative else None,
        "candidates": [candidate_record(candidate) for candidate in candidates],
        "not_faster": [each.key for each in not_faster(candidates)],
        "straddling": [each.key for each in straddling(candidates, limits)],
        "against_selected": [
            {"exit": each.key, **found._asdict()} for each in candidates if (found := pairing(each, chosen))
        ],
        **deployment_record(deployment),
    }
