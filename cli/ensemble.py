"""`lctprune ensemble`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lctprune.cli.console import print_json, stdout
from lctprune.cli.options import (
    BatchOption,
    BudgetFlopsOption,
    BudgetLatencyOption,
    BudgetMacsOption,
    BudgetParamsOption,
    BudgetSizeOption,
    DataOption,
    JsonOption,
    ModelOption,
    OutOption,
    RunArgument,
    ThreadsOption,
)
from lctprune.errors import BudgetError


def ensemble(
    run: RunArgument = None,
    budget_flops: BudgetFlopsOption = None,
    budget_macs: BudgetMacsOption = None,
    budget_params: BudgetParamsOption = None,
    budget_latency_ms: BudgetLatencyOption = None,
    budget_size: BudgetSizeOption = None,
    latency_batch: BatchOption = 1,
    model: ModelOption = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Let several exits answer together, and export the best such ensemble that fits a budget.

    Every subset of the exits is tried. The layers up to the deepest exit run once, so an ensemble costs that exit and
    the critics of the others. Weights are fitted on validation; where they lose to the plain sum on samples that they
    were not fitted on, the plain sum is taken. Exit code 3: nothing fits.

    Example:
    lctprune ensemble runs/mine --budget-flops 80%
    """
    from lctprune.cli.reasons import shown, tested
    from lctprune.cli.results import opened, results_folder, show_candidates, write_results
    from lctprune.cli.working import working
    from lctprune.config.combined import ENSEMBLE
    from lctprune.measure.choice import not_faster, select, straddling
    from lctprune.measure.misses import SMALLER
    from lctprune.measure.selection import Budget, Limits, fitting, main_of
    from lctprune.measure.units import budget_options
    from lctprune.workflows.ensemble import export_ensemble, find_ensembles, on_front
    from lctprune.workflows.loading import LoadedRun
    from lctprune.workflows.model_card import candidate_record
    from lctprune.workflows.next_steps import after_selection

    budget = Budget(
        flops=budget_flops,
        macs=budget_macs,
        parameters=budget_params,
        latency_ms=budget_latency_ms,
        size_bytes=budget_size,
    )
    opened_run = opened(run, model=model, data=data, threads=threads)
    loaded = LoadedRun(opened_run)
    folder = results_folder(opened_run, out, ENSEMBLE)
    with working("Trying every subset of exits on the validation split"):
        found = find_ensembles(loaded, latency_batch=latency_batch)
    limits: Limits = budget.limits(main_of(found.candidates))
    together = [each for each in found.candidates if each.exit in found.ensembles]
    one_network = opened_run.command("select", *budget_options(budget.given))
    try:
        chosen = select(together, limits)
    except BudgetError as error:
        remedy = f"or take one network: {one_network}"
        raise BudgetError(str(error).replace(SMALLER, remedy), error.nearest, error.misses) from error
    with working("Exporting, and measuring on the test split"):
        record = export_ensemble(loaded, found, chosen, folder)
    write_results(opened_run, found.candidates, folder, chosen=chosen, limits=limits)
    if json:
        print_json(
            {
                "run": str(opened_run.path),
                "budget": dict(limits),
                **record,
                "selected": candidate_record(chosen),
                "tried": found.tried,
                "on_front": [each.name for each in on_front(found)],
                "candidates": [candidate_record(each) for each in found.candidates],
                "not_faster": [each.exit for each in not_faster(found.candidates)],
                "straddling": [each.exit for each in straddling(found.candidates, limits)],
                "folder": folder and str(folder),
            }
        )
        return
    headline = f"{opened_run.path}, exits, and the best of {found.tried} ensembles, on the validation split"
    show_candidates(
        opened_run,
        found.candidates,
        headline,
        epochs=loaded.epochs,
        chosen=chosen,
        limits=limits,
    )
    console, test = stdout(), record["test"]
    weights = ", ".join(f"{each['name']} {each['weight']:.2f}" for each in record["exits"])
    kind = "fitted weights" if record["is_fitted"] else "the plain sum, as fitted weights were no better"
    console.print(f"\nChosen: {chosen.name}: {shown(chosen)} on validation. Weights: {weights} ({kind}).")
    singles = [each for each in fitting(found.candidates, limits) if each.exit not in found.ensembles]
    if (best := select([*singles, chosen], Limits({}))) is not chosen:
        alone = f"{best.name} alone has {shown(best)}{tested(best, chosen)}"
        console.print(f"No ensemble is needed: {alone}; this takes it: {one_network}", soft_wrap=True)
    console.print(
        f"Test accuracy ({test['samples']} samples, read for this only): {test['accuracy']:.1%}; plain sum "
        f"{test['plain_sum_accuracy']:.1%}; "
        + ", ".join(f"{name} {value:.1%}" for name, value in test["exit_accuracies"].items())
        + "."
    )
    console.print(_against_exit(test))
    if folder is None:
        console.print("Not exported: the run cannot be written; --out DIR writes elsewhere.")
    else:
        console.print(f"Exported: {folder}/model.pt (how to feed it: model.json beside it).", soft_wrap=True)
        is_inside = folder.parent == opened_run.path
        if following := after_selection(opened_run, folder / "model.pt", is_inside=is_inside):
            console.print(following, soft_wrap=True)


def _against_exit(test: Mapping[str, Any]) -> str:
    """Say whether an ensemble is better than the best exit by more than chance, on samples that chose neither."""
    from lctprune.cli.reasons import paired_text
    from lctprune.measure.paired import LEVEL

    best = test["best_exit"]
    gain, p_value = best["only_ensemble"] - best["only_exit"], best["p_value"]
    verdict = "better" if gain > 0 else "worse"
    if p_value >= LEVEL:
        verdict = "not shown to be better"
    only = f"{best['only_ensemble']} samples"
    found = paired_text(only, "the ensemble", best["only_exit"], best["name"], p_value)
    return f"On test, against {best['name']}, the best exit by validation of no more FLOPs: {verdict} ({found})."
