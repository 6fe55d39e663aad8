"""Fit, check, export and measure the progressive network of a run.

progressive/model.pt    the network as one TorchScript file, with its thresholds inside; see `progressive_files`
progressive/model.json  how to feed it, what it is expected to do, and the best exit beside it
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lctprune.config.combined import PROGRESSIVE
from lctprune.exporting.torchscript import to_torchscript
from lctprune.measure.answers import answers_of
from lctprune.measure.candidates import Candidate
from lctprune.measure.costs import count_parameters, size_bytes
from lctprune.measure.early_exit import Outcome, confidences, outcome
from lctprune.measure.exit_fitting import Goal
from lctprune.measure.latency import measure_latency
from lctprune.measure.outputs import exit_outputs
from lctprune.measure.unscored import unscored
from lctprune.progressive import converted
from lctprune.workflows.combined_records import Several, write_combined
from lctprune.workflows.exported_files import COMPARED_SAMPLES
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import exit_names, next_number
from lctprune.workflows.progressive_fitting import Fitted, exit_costs

TIMED_SAMPLES, REPEATS = 40, 7  # samples that latency is measured on, one by one, and calls of each


class Measured(NamedTuple):
    """What a progressive network does on the test split, beside the exits of the run.

    Attributes:
        test: what becomes of the test samples.
        exit_accuracies: test accuracy of each exit of the run.
        mean_ms: mean time of a call with one sample, in milliseconds, over `TIMED_SAMPLES` samples.
        p95_ms: 95th percentile of these times over the samples.
        exit_ms: median time of a call of each exit of the run, in turns with the others.
        samples: number of test samples.
        is_steady: whether the machine was quiet enough for these times.
    """

    test: Outcome
    exit_accuracies: tuple[float, ...]
    mean_ms: float
    p95_ms: float
    exit_ms: tuple[float, ...]
    samples: int
    is_steady: bool


def measure_progressive(loaded: LoadedRun, fitted: Fitted, deployed: Callable[[Tensor], Any]) -> Measured:
    """Measure a progressive network and every exit on the test split, which is read once, and their latencies.

    Args:
        loaded: the run.
        fitted: fitted network.
        deployed: the network as it is exported.
    """
    network, data = loaded.network(), loaded.data
    outputs = exit_outputs(network, data.test)
    costs = exit_costs(network, data.example)
    found = outcome(outputs, confidences(outputs.logits, fitted.all_temperatures), fitted.setting, costs)
    samples, _ = next(data.val.batches(TIMED_SAMPLES))
    singles = list(samples[:TIMED_SAMPLES, None].unbind())
    exits = [to_torchscript(network.subnetwork(exit), singles[0]) for exit in range(len(network.groups))]
    calls = [partial(_call, deployed, single) for single in singles]
    calls += [partial(_call, exit, singles[0]) for exit in exits]
    found_ms = measure_latency(calls, singles[0], repeats=REPEATS)
    times = [each.median_ms for each in found_ms]
    own = times[: len(singles)]
    return Measured(
        test=found,
        exit_accuracies=tuple(outputs.correct.double().mean(1).tolist()),
        mean_ms=statistics.fmean(own),
        p95_ms=sorted(own)[math.ceil(0.95 * len(own)) - 1],
        exit_ms=tuple(times[len(singles) :]),
        samples=len(outputs.targets),
        is_steady=all(each.is_steady for each in found_ms[len(singles) :]),
    )


def _call(network: Callable[[Tensor], Any], sample: Tensor, _: Tensor) -> None:
    network(sample)


def compared_candidates(loaded: LoadedRun, fitted: Fitted, measured: Measured) -> list[Candidate]:
    """Return every exit and the progressive network as candidates, on the same held-out validation samples.

    The progressive network comes last; its FLOPs and its latency are means over samples.
    """
    network, example = loaded.network(), loaded.data.example
    names, right = exit_names(loaded.run), fitted.held_out.correct
    correct = torch.cat([right, fitted.check.correct[None]])
    answers = answers_of(correct, fitted.held_out.targets)
    found = []
    for exit, latency in enumerate(measured.exit_ms):
        cost = unscored(network.subnetwork(exit), example)
        found.append(dataclasses.replace(cost, exit=exit, name=names[exit], latency_ms=latency))
    flops = round(fitted.check.mean_flops)
    found.append(
        dataclasses.replace(
            found[-1],
            exit=next_number(loaded),
            name=PROGRESSIVE,
            flops=flops,
            macs=flops // 2,
            parameters=count_parameters(fitted.network),
            size_bytes=size_bytes(fitted.network),
            latency_ms=measured.mean_ms,
            origin="mean FLOPs and latency per sample",
        )
    )
    samples, accuracies = len(fitted.held_out.targets), correct.double().mean(1).tolist()
    return [
        dataclasses.replace(each, accuracy=accuracy, score=accuracy, samples=samples, answers=answer)
        for each, accuracy, answer in zip(found, accuracies, answers, strict=True)
    ]


def record_candidate(
    loaded: LoadedRun, fitted: Fitted, goal: Goal, candidates: Sequence[Candidate], folder: Path
) -> None:
    """Record the progressive network beside its files, so that `select` has it as a candidate.

    Args:
        loaded: the run.
        fitted: fitted network.
        goal: goal that it was fitted for.
        candidates: what `compared_candidates` gives.
        folder: output folder.
    """
    several = Several(
        exits=fitted.setting.exits,
        thresholds=fitted.setting.thresholds,
        temperatures=fitted.temperatures,
        goal=goal,
        fitted_on=fitted.fitted_on,
    )
    *_, main, own = candidates
    write_combined(loaded, folder, [(own, several)], main_ms=main.latency_ms, part=fitted.part)


def static_exits(candidates: Sequence[Candidate], cost: str) -> list[Candidate]:
    """Return the exits that cost no more than the progressive network, the most accurate first.

    Args:
        candidates: candidates from `compared_candidates`.
        cost: "flops" or "latency_ms".
    """
    *exits, own = candidates
    limit = getattr(own, cost)
    fitting = [each for each in exits if getattr(each, cost) is not None and getattr(each, cost) <= limit]
    return sorted(fitting, key=lambda each: -each.merit)


def convert_progressive(loaded: LoadedRun, fitted: Fitted) -> torch.jit.ScriptModule:
    """Convert the network to TorchScript, and compare it with the original on real samples.

    Raises:
        ExportError: it would not do what the network does.
    """
    return converted(fitted.network, compared_samples(loaded))


def compared_samples(loaded: LoadedRun) -> Tensor:
    """Return the validation samples that files are compared on, [batch, ...]."""
    samples, _ = next(loaded.data.val.batches(COMPARED_SAMPLES))
    return samples


def progressive_record(loaded: LoadedRun, fitted: Fitted, measured: Measured, goal: Goal) -> dict[str, Any]:
    """Describe a progressive network and how it was found, as plain JSON values."""
    names = exit_names(loaded.run)
    return {
        "exits": [
            {"exit": exit, "name": names[exit], "threshold": threshold, "temperature": temperature}
            for exit, threshold, temperature in zip(
                fitted.setting.exits, (*fitted.setting.thresholds, None), fitted.temperatures, strict=True
            )
        ],
        "goal": dataclasses.asdict(goal),
        "fitted_on": {"split": "validation", "samples": fitted.fitted_on},
        "checked_on": {"split": "validation", **_figures(fitted.check, len(fitted.held_out.targets))},
        "test": {
            **_figures(measured.test, measured.samples),
            "exit_accuracies": dict(zip(names, measured.exit_accuracies, strict=True)),
        },
        "latency": {
            "mean_ms": measured.mean_ms,
            "p95_ms": measured.p95_ms,
            "exits_ms": dict(zip(names, measured.exit_ms, strict=True)),
            "batch": 1,
        },
    }


def _figures(found: Outcome, samples: int) -> dict[str, Any]:
    return {
        "samples": samples,
        "accuracy": found.accuracy,
        "main_accuracy": found.main_accuracy,
        "mean_flops": found.mean_flops,
        "p95_flops": found.p95_flops,
        "shares": list(found.shares),
    }
