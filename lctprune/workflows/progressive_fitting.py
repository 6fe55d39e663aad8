"""Fit the progressive network of a run for a goal, and find the nearest goal that can be met where that one cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from lctprune.errors import BudgetError, ConfigError, NetworkError, RunError
from lctprune.measure.early_exit import ExitCosts, Outcome, Setting, confidences, fit_temperature, outcome
from lctprune.measure.exit_fitting import MARGIN, Goal, fit
from lctprune.measure.group_costs import measure_groups
from lctprune.measure.outputs import ExitOutputs, exit_outputs, halves, require_combinable, require_exits
from lctprune.measure.parts import Part
from lctprune.measure.selection import Budget
from lctprune.measure.units import amount
from lctprune.measure.unscored import unscored
from lctprune.network import LocalCriticNetwork
from lctprune.progressive import ProgressiveNetwork
from lctprune.workflows.combined_records import CombinedNetwork
from lctprune.workflows.loading import LoadedRun

DROPS = (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50)  # points that are tried where a goal cannot be met


class Fitted(NamedTuple):
    """A progressive network whose goal is met on samples that it was not fitted on.

    Attributes:
        network: the network.
        setting: exits and thresholds.
        temperatures: temperature of each exit that is asked.
        check: what becomes of the other half of the validation samples.
        held_out: outputs of every exit on these samples.
        fitted_on: number of samples that it was fitted on.
        part: the other half, as a part of the validation samples.
    """

    network: ProgressiveNetwork
    setting: Setting
    temperatures: tuple[float, ...]
    all_temperatures: tuple[float, ...]
    check: Outcome
    held_out: ExitOutputs
    fitted_on: int
    part: Part


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
        NetworkError: there are no exits to combine, whatever the goal.
        DataError: there are too few samples for any goal.
    """
    require_exits(loaded.network(), loaded.data)
    if (max_drop is None) == (budget_flops is None):
        raise ConfigError("give a goal, and only one: `max_drop=0.5`, or `budget_flops=60%`")
    if budget_flops is not None:
        main = unscored(loaded.network(), loaded.data.example)
        return Goal(flops=Budget(flops=budget_flops).limits(main)["flops"])
    if max_drop is None or not 0 <= max_drop <= 100:
        raise ConfigError(f"`max_drop` is {max_drop}; it must be between 0 and 100 points")
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
    require_combinable(network, loaded.data)
    costs = exit_costs(network, loaded.data.example)
    outputs = exit_outputs(network, loaded.data.val)
    first, second = _halves(loaded, outputs)
    own, held_out = outputs.at(first), outputs.at(second)
    temperatures = [fit_temperature(each, own.targets) for each in own.logits]

    def attempt(goal: Goal) -> tuple[Setting, Outcome, str]:
        """Fit for a goal; return the setting, what becomes of the other half, and why it will not do, else ""."""
        setting, is_met = fit(own, temperatures, costs, goal)
        check = outcome(held_out, confidences(held_out.logits, temperatures), setting, costs)
        if not is_met:
            fitted = outcome(own, confidences(own.logits, temperatures), setting, costs)
            return setting, check, _missed(goal, fitted, len(first), "it was fitted on", margin=MARGIN)
        if not goal.is_met(check):
            return setting, check, _missed(goal, check, len(second), "it was not fitted on")
        if setting.exits == (len(network.groups) - 1,):
            problem = f"no early exit is sure enough for that on {len(first)} samples"
            return setting, check, f"{problem}: every sample would go through the main network"
        return setting, check, ""

    setting, check, problem = attempt(goal)
    if problem:
        possible = next((text for text, looser in _looser(goal, costs) if not attempt(looser)[2]), None)
        remedy = f"{possible} is possible" if possible else "no other goal is possible: choose one exit instead"
        raise BudgetError(f"{problem}; nothing was written: {remedy}")
    used = tuple(temperatures[exit] for exit in setting.exits)
    progressive = ProgressiveNetwork(network, setting.exits, setting.thresholds, used).eval()
    part = Part.of(second, outputs.targets)
    return Fitted(progressive, setting, used, tuple(temperatures), check, held_out, len(first), part)


def _halves(loaded: LoadedRun, outputs: ExitOutputs) -> tuple[Tensor, Tensor]:
    """Return the places of the samples to fit on, and of those to check on in the order of the split."""
    first, second = halves(outputs, loaded.run.config.training.seed)
    return first, second.sort().values


def fitted_before(loaded: LoadedRun, recorded: CombinedNetwork) -> Fitted:
    """Return a progressive network as it was recorded, with what becomes of the samples that it was not fitted on.

    Raises:
        NetworkError: the exits cannot be combined, or their FLOPs are not known.
        RunError: it was recorded on other validation samples, or what was recorded is not what it does.
    """
    network, several = loaded.network(), recorded.several
    require_combinable(network, loaded.data)
    outputs = exit_outputs(network, loaded.data.val)
    first, second = _halves(loaded, outputs)
    if (part := Part.of(second, outputs.targets)) != recorded.part:
        raise RunError(
            f"the progressive network of {loaded.run.path} was recorded on other validation samples; lctprune "
            "progressive makes it anew"
        )
    temperatures = [1.0] * len(network.groups)  # of exits that are not asked
    for exit, temperature in zip(several.exits, several.temperatures, strict=True):
        temperatures[exit] = temperature
    setting, held_out = Setting(several.exits, several.thresholds), outputs.at(second)
    costs = exit_costs(network, loaded.data.example)
    check = outcome(held_out, confidences(held_out.logits, temperatures), setting, costs)
    if not math.isclose(check.mean_flops, recorded.candidate.flops or 0, rel_tol=1e-3):
        raise RunError(
            f"the progressive network of {loaded.run.path} takes a mean of {amount(check.mean_flops, 'flops')}, which "
            "is not what was recorded of it; lctprune progressive makes it anew"
        )
    progressive = ProgressiveNetwork(network, several.exits, several.thresholds, several.temperatures).eval()
    used = several.temperatures
    return Fitted(progressive, setting, used, tuple(temperatures), check, held_out, len(first), part)


def _missed(goal: Goal, found: Outcome, samples: int, which: str, *, margin: float = 0.0) -> str:
    """Say what was compared with the goal: what was found, or where that would meet it, its sum with a margin."""
    if goal.max_drop is not None:
        value, error, limit = found.drop, 100 * found.drop_error, f"{goal.max_drop:g} points"
        figures, total = f"the drop is {value:.2f} points", f"{value + margin * error:.2f}"
        added = f"{error:.2f}"
    else:
        value, error, limit = found.mean_flops, found.flops_error, amount(goal.flops or 0, "flops", 4)
        figures = f"the mean is {amount(value, 'flops', 4)} per sample"
        total, added = amount(value + margin * error, "flops", 4), amount(error, "flops")
    if margin and goal.is_met(found):
        figures += f", and {total} with {margin:g} standard errors of {added} added, as other samples may be worse"
    return f"the goal is not met on the {samples} validation samples that {which}: {figures}; it may be at most {limit}"


def _looser(goal: Goal, costs: ExitCosts) -> Iterator[tuple[str, Goal]]:
    """List goals of the same kind that ask for less, the nearest first, and how they are given."""
    if goal.max_drop is not None:
        for drop in (each for each in DROPS if each > goal.max_drop):
            yield f"`max_drop={drop:g}`", Goal(max_drop=drop)
        return
    whole = sum(costs.groups)
    for percent in range(10, 100, 10):
        if (limit := whole * percent / 100) > (goal.flops or 0):
            yield f"`budget_flops={percent}%`", Goal(flops=limit)
