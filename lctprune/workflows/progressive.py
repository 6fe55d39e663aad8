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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lctprune.errors import BudgetError, ConfigError, NetworkError
from lctprune.exporting.torchscript import to_torchscript
from lctprune.measure.candidates import Candidate
from lctprune.measure.costs import count_parameters, size_bytes
from lctprune.measure.early_exit import ExitCosts, Outcome, Setting, confidences, fit_temperature, outcome
from lctprune.measure.exit_fitting import Goal, fit
from lctprune.measure.group_costs import measure_groups
from lctprune.measure.latency import measure_latency
from lctprune.measure.outputs import ExitOutputs, exit_outputs, halves, require_combinable
from lctprune.measure.paired import answers_of
from lctprune.measure.selection import Budget
from lctprune.measure.unscored import unscored
from lctprune.network import LocalCriticNetwork
from lctprune.progressive import ProgressiveNetwork, converted
from lctprune.workflows.exported_files import COMPARED_SAMPLES
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import exit_names

NAME = "progressive"
TIMED_SAMPLES, REPEATS = 40, 7  # samples that latency is measured on, one by one, and calls of each


class Fitted(NamedTuple):
    """A progressive network whose goal is met on samples that it was not fitted on.

    Attributes:
        network: the network.
        setting: exits and thresholds.
        temperatures: temperature of each exit that is asked.
        check: what becomes of the other half of the validation samples.
        held_out: outputs of every exit on these samples.
        fitted_on: number of samples that it was fitted on.
    """

    network: ProgressiveNetwork
    setting: Setting
    temperatures: tuple[float, ...]
    all_temperatures: tuple[float, ...]
    check: Outcome
    held_out: ExitOutputs
    fitted_on: int


class Measured(NamedTuple):
    """What a progressive network does on the test split, beside the exits of the run.

    Attributes:
        test: what becomes of the test samples.
        exit_accuracies: test accuracy of each exit of the run.
        mean_ms: mean time of a call with one sample, in milliseconds, over `TIMED_SAMPLES` samples.
        p95_ms: 95th percentile of these times over the samples.
        exit_ms: median time of a call of each exit of the run, in turns with the others.
        samples: number of test samples.
    """

    test: Outcome
    exit_accuracies: tuple[float, ...]
    mean_ms: float
    p95_ms: float
    exit_ms: tuple[float, ...]
    samples: int


def exit_costs(network: LocalCriticNetwork, example: Tensor) -> ExitCosts:
    """Count the FLOPs of each group and each critic for one sample.

    Raises:
        NetworkError: an operation has no FLOP formula.
    """
    costs = measure_groups(network, example)
    groups, critics = [each.flops for each in costs], [each.critic_flops for each in costs]
    if None in groups or None in critics:
        raise NetworkError("the FLOPs of a group are not known, so the cost of leaving early is not known either")
    return ExitCosts(tuple(each or 0 for each in groups), tuple(each or 0 for each in critics))


def goal_of(loaded: LoadedRun, *, max_drop: float | None, budget_flops: float | str | None) -> Goal:
    """Make a goal of what a user gives.

    Args:
        loaded: the run.
        max_drop: largest loss of accuracy against the main network, in points.
        budget_flops: largest mean FLOPs per sample, as in `Budget`.

    Raises:
        ConfigError: not exactly one of the two is given, or it is out of its range.
    """
    if (max_drop is None) == (budget_flops is None):
        raise ConfigError("give one of max drop and budget flops: --max-drop 0.5, or --budget-flops 60%")
    if budget_flops is not None:
        main = unscored(loaded.network(), loaded.data.example)
        return Goal(flops=Budget(flops=budget_flops).limits(main)["flops"])
    if max_drop is None or not 0 <= max_drop <= 100:
        raise ConfigError(f"max drop is {max_drop}; it must be between 0 and 100 points")
    return Goal(max_drop=max_drop)


def fit_progressive(loaded: LoadedRun, goal: Goal) -> Fitted:
    """Fit a progressive network on one half of the validation split, and check its goal on the other.

    Args:
        loaded: run of at least two exits, of a classification with one class per sample.
        goal: goal.

    Raises:
        BudgetError: the goal is not met on the half that it was fitted on, or on the other.
        NetworkError: the exits cannot be combined, or their FLOPs are not known.
        DataError: there are too few samples.
    """
    network = loaded.network()
    require_combinable(network, loaded.data.val)
    costs = exit_costs(network, loaded.data.example)
    outputs = exit_outputs(network, loaded.data.val)
    first, second = halves(outputs, loaded.run.config.training.seed)
    own, held_out = outputs.at(first), outputs.at(second)
    temperatures = [fit_temperature(each, own.targets) for each in own.logits]
    setting, is_met = fit(own, temperatures, costs, goal)
    found = outcome(own, confidences(own.logits, temperatures), setting, costs)
    if not is_met:
        raise _not_met(goal, found, len(first), "it was fitted on, with a margin of one standard error")
    check = outcome(held_out, confidences(held_out.logits, temperatures), setting, costs)
    if not goal.is_met(check):
        raise _not_met(goal, check, len(second), "it was not fitted on")
    if len(setting.exits) == 1 and setting.exits[0] == len(network.groups) - 1:
        raise BudgetError(
            f"no early exit is sure enough for that on {len(first)} samples: every sample would go through the main "
            "network; allow a larger drop, or train with a larger --val-fraction"
        )
    used = tuple(temperatures[exit] for exit in setting.exits)
    progressive = ProgressiveNetwork(network, setting.exits, setting.thresholds, used).eval()
    return Fitted(progressive, setting, used, tuple(temperatures), check, held_out, len(first))


def _not_met(goal: Goal, found: Outcome, samples: int, which: str) -> BudgetError:
    if goal.max_drop is not None:
        figures = f"the drop is {found.drop:.2f} points (at most {goal.max_drop:g})"
        remedy = "allow a larger drop"
    else:
        figures = f"the mean is {found.mean_flops:.4g} FLOPs per sample (at most {goal.flops:.4g})"
        remedy = "allow more FLOPs"
    return BudgetError(
        f"the goal is not met on the {samples} validation samples that {which}: {figures}; {remedy}, or train with a "
        "larger --val-fraction; nothing was written"
    )


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
    times = [each.median_ms for each in measure_latency(calls, singles[0], repeats=REPEATS)]
    own = times[: len(singles)]
    return Measured(
        test=found,
        exit_accuracies=tuple(outputs.correct.double().mean(1).tolist()),
        mean_ms=statistics.fmean(own),
        p95_ms=sorted(own)[math.ceil(0.95 * len(own)) - 1],
        exit_ms=tuple(times[len(singles) :]),
        samples=len(outputs.targets),
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
            exit=len(found),
            name=NAME,
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


def best_static(candidates: Sequence[Candidate], cost: str) -> Candidate | None:
    """Return the most accurate exit that costs no more than the progressive network; None if all cost more.

    Args:
        candidates: candidates from `compared_candidates`.
        cost: "flops" or "latency_ms".
    """
    *exits, own = candidates
    limit = getattr(own, cost)
    fitting = [each for each in exits if getattr(each, cost) is not None and getattr(each, cost) <= limit]
    return max(fitting, key=lambda each: each.merit, default=None)


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
