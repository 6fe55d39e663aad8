"""`lctprune progressive`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lctprune.cli.console import print_json, print_table, quantity, stdout
from lctprune.cli.options import (
    LIMIT,
    DataOption,
    JsonOption,
    MaxDropOption,
    ModelOption,
    OutOption,
    RunArgument,
    ThreadsOption,
)

if TYPE_CHECKING:
    from lctprune.measure.candidates import Candidate
    from lctprune.workflows.progressive import Measured


def progressive(
    run: RunArgument = None,
    max_drop: MaxDropOption = None,
    budget_flops: Annotated[
        str | None,
        typer.Option(metavar=LIMIT, help="Maximum of the mean FLOPs per sample: 300M, or 60% of the main network's."),
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT,...",
            help="torchscript (one file) or onnx (a file per stage, extra: lctprune[onnx]), or both. Default: "
            "torchscript.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Let every sample leave at the first exit that is sure enough, and export that as one network.

    Exits, temperatures and thresholds are fitted on one half of the validation split for one of two goals, and checked
    on the other half. Exit code 3: the goal is not met there. The test split is read once. The best exit at the same
    mean FLOPs, and at the same latency, is shown beside it.

    Example:
    lctprune progressive runs/mine --max-drop 0.5
    """
    from lctprune.cli.results import opened, results_folder, write_results
    from lctprune.cli.working import working
    from lctprune.config.combined import PROGRESSIVE
    from lctprune.exporting.formats import known_formats
    from lctprune.workflows.combined_deployment import converted_progressive, require_progressive_formats
    from lctprune.workflows.loading import LoadedRun
    from lctprune.workflows.model_card import candidate_record
    from lctprune.workflows.next_steps import after_progressive
    from lctprune.workflows.progressive import compared_candidates, progressive_record, record_candidate
    from lctprune.workflows.progressive_files import write_progressive
    from lctprune.workflows.progressive_fitting import fit_progressive, goal_of

    formats = known_formats(format or ["torchscript"])
    require_progressive_formats(formats)
    found = opened(run, model=model, data=data, threads=threads)
    loaded = LoadedRun(found)
    goal = goal_of(loaded, max_drop=max_drop, budget_flops=budget_flops)
    folder = results_folder(found, out, PROGRESSIVE)
    with working("Fitting on validation, then measuring on the test split"):
        fitted = fit_progressive(loaded, goal)
        scripted, stages, measured = converted_progressive(loaded, fitted, formats)
    record = progressive_record(loaded, fitted, measured, goal)
    files: list[Path] = []
    if folder is not None:
        files = write_progressive(loaded, record, folder, scripted=scripted, stages=stages)
    candidates = compared_candidates(loaded, fitted, measured)
    if folder is not None:
        record_candidate(loaded, fitted, goal, candidates, folder)
    write_results(found, candidates, folder, chosen=candidates[-1])
    if json:
        records = [candidate_record(each) for each in candidates]
        print_json({"run": str(found.path), **record, "candidates": records, "folder": folder and str(folder)})
        return
    _show(measured, candidates, record, files)
    if folder is not None and (following := after_progressive(found, candidates, folder)):
        stdout().print(following, soft_wrap=True)


def _show(
    measured: Measured,
    candidates: Sequence[Candidate],
    record: dict[str, Any],
    files: Sequence[Path],
) -> None:
    console, test = stdout(), measured.test
    rows = [
        {
            "exit": str(each["exit"]),
            "network": each["name"],
            "threshold": "-" if each["threshold"] is None else f"{each['threshold']:.4f}",
            "temperature": f"{each['temperature']:.2f}",
            "leave here": f"{share:.1%}",
        }
        for each, share in zip(record["exits"], test.shares, strict=True)
    ]
    console.print(f"Test split ({measured.samples} samples, read for this only), where samples leave:\n")
    print_table(console, rows, dispensable=(), left=["network"], folded=["network"])
    if len(rows) == 1:
        console.print(f"\nNo sample has to leave early or late: this is {rows[0]['network']} alone.")
    console.print(f"\nTest accuracy: {test.accuracy:.1%}; main network {test.main_accuracy:.1%}.")
    main_flops, main_ms = candidates[-2].flops or 0, measured.exit_ms[-1]
    console.print(
        f"FLOPs per sample: mean {quantity(test.mean_flops)} ({test.mean_flops / main_flops:.0%} of the main network), "
        f"95th percentile {quantity(test.p95_flops)}."
    )
    console.print(
        f"Latency, batch 1: mean {measured.mean_ms:.2f} ms ({measured.mean_ms / main_ms:.0%} of the main network), "
        f"95th percentile {measured.p95_ms:.2f} ms{'' if measured.is_steady else ', as far as a busy machine tells'}."
    )
    for cost, text in (("flops", "mean FLOPs"), ("latency_ms", "mean latency")):
        console.print(_beside(measured, candidates, cost, text))
    if not files:
        console.print("Not exported: the run cannot be written; --out DIR writes elsewhere.")
    else:
        written = ", ".join(map(str, files))
        console.print(f"Exported: {written} (how to feed it: model.json beside it).", soft_wrap=True)


def _beside(measured: Measured, candidates: Sequence[Candidate], cost: str, text: str) -> str:
    """Say how the best exit at the same cost compares: that on validation, and that on test where it is another."""
    from lctprune.workflows.progressive import static_exits

    exits, own = static_exits(candidates, cost), measured.test.accuracy
    if not exits:
        return f"At the same {text}: no exit costs so little."

    def compared(exit: Candidate) -> str:
        accuracy = measured.exit_accuracies[exit.exit]
        verdict = "as accurate as" if accuracy == own else "better than" if accuracy > own else "worse than"
        return f"{exit.name}, with a test accuracy of {accuracy:.1%}: {verdict} leaving early."

    best = max(exits, key=lambda each: measured.exit_accuracies[each.exit])
    found = f"At the same {text}, the best exit by validation is {compared(exits[0])}"
    return found if best is exits[0] else f"{found} The best on test is {compared(best)}"
