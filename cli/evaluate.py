"""`lctprune evaluate`."""

from __future__ import annotations

from lctprune.cli.options import (
    BatchOption,
    DataOption,
    JsonOption,
    ModelOption,
    OutOption,
    PartialOption,
    PrecisionOption,
    RunArgument,
    RuntimeOption,
    ThreadsOption,
)


def evaluate(
    run: RunArgument = None,
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
    """Measure every exit anew: accuracy on the validation split, FLOPs, parameters, latency.

    Example:
    lctprune evaluate runs/mine --latency-batch 8 --threads 1 --runtime auto
    """
    from lctprune.cli.results import measured, opened, refresh_results, results_folder, show_candidates
    from lctprune.workflows.loading import LoadedRun

    found = opened(run, model=model, data=data, threads=threads, partial=partial)
    folder = results_folder(found, out)
    loaded = LoadedRun(found)
    candidates = measured(
        found, folder, latency_batch=latency_batch, runtime=runtime, precision=precision, again=True, loaded=loaded
    )
    refresh_results(loaded, candidates, folder)
    headline = f"{found.path} on its validation split"
    show_candidates(found, candidates, headline, epochs=loaded.epochs, json=json)
