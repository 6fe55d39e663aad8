"""Fit when samples leave a progressive network, for a goal of accuracy or FLOPs, on outputs that are known already.

All functions here are pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.measure.early_exit import ExitCosts, Outcome, Setting, confidences, outcome
from lctprune.measure.outputs import ExitOutputs

PRICES = 40  # tried trade-offs between accuracy and FLOPs
ROUNDS = 3  # over the exits, for each price
POLISHED, LEVELS = 4, 33  # settings that are improved further, and thresholds that are tried for each of their exits
MARGIN = 2.0  # standard errors that are kept from a goal in fitting: the best of many settings is lucky on its half


def possible_settings(outputs: ExitOutputs, confidence: Tensor, costs: ExitCosts) -> list[Setting]:
    """Find settings with good trade-offs between accuracy and mean FLOPs.

    For each last exit and each of many prices of a FLOP, the thresholds are improved in turns: for one exit the best
    threshold is found exactly, with the others as they are. They are improved from what the price before has found,
    and from no early exit, as each start ends at another optimum.

    Args:
        outputs: outputs of every exit on the samples to fit on.
        confidence: confidence of every exit, [exits, n].
        costs: FLOPs.
    """
    correct, whole = outputs.correct.double(), sum(costs.groups)
    found: dict[Setting, None] = {}
    for last in range(len(costs.groups)):
        none_early = [math.inf] * last
        found[_setting(none_early)] = None
        before = none_early
        for price in torch.logspace(1, -3, PRICES).tolist():  # of the main network's FLOPs, in accuracy
            fitting = _Fitting(correct, confidence, costs, last, price / whole)
            before = fitting.improved(before)
            found[_setting(before)] = found[_setting(fitting.improved(none_early))] = None
    return list(found)


def _setting(thresholds: Sequence[float]) -> Setting:
    """Return the setting with a threshold for each exit before the last, infinity where the exit is not asked."""
    used = [exit for exit, threshold in enumerate(thresholds) if threshold <= 1]
    return Setting((*used, len(thresholds)), tuple(thresholds[exit] for exit in used))


class _Fitting(NamedTuple):
    """The value of leaving: correct - price * FLOPs, summed over samples."""

    correct: Tensor  # [exits, n]
    confidence: Tensor  # [exits, n]
    costs: ExitCosts
    last: int
    price: float

    def improved(self, thresholds: Sequence[float]) -> list[float]:
        """Return thresholds that are improved in turns."""
        found = list(thresholds)
        for _ in range(ROUNDS):
            before = list(found)
            for exit in range(self.last):
                found[exit] = self.best(found, exit)
            if found == before:
                break
        return found

    def best(self, thresholds: Sequence[float], exit: int) -> float:
        """Return the best threshold of one exit, infinity if it is best not asked."""
        reached = torch.ones_like(self.confidence[0], dtype=torch.bool)
        for earlier in range(exit):
            reached &= self.confidence[earlier] < thresholds[earlier]
        if not reached.any():
            return math.inf
        confidence = self.confidence[exit, reached]
        gain = self.correct[exit, reached] - self._following(thresholds, exit)[reached]  # of leaving here
        order = confidence.argsort(descending=True)
        confidence, gain = confidence[order], gain[order].cumsum(0)
        ends = torch.cat([confidence[1:] < confidence[:-1], torch.ones(1, dtype=torch.bool)])
        gain = gain.masked_fill(~ends, -math.inf)
        place = int(gain.argmax())
        if gain[place] <= self.price * self.costs.critics[exit] * len(confidence):  # the critic is asked for all
            return math.inf
        upper = confidence[place]
        if place + 1 == len(confidence):
            return min(float(upper), 1.0)
        middle = (upper + confidence[place + 1]) / 2
        return min(float(middle if middle > confidence[place + 1] else upper), 1.0)

    def _following(self, thresholds: Sequence[float], exit: int) -> Tensor:
        """Return the value of going on after an exit, [n], without what was spent up to there."""
        value = torch.zeros_like(self.correct[0])
        going = torch.ones_like(value)
        for later in range(exit + 1, self.last + 1):
            is_asked = later == self.last or thresholds[later] <= 1
            spent = self.costs.groups[later] + (self.costs.critics[later] if is_asked else 0)
            value -= going * self.price * spent
            if is_asked:
                leaves = going if later == self.last else going * (self.confidence[later] >= thresholds[later])
                value += leaves * self.correct[later]
                going = going - leaves
        return value


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What leaving early has to achieve: one of the two.

    Attributes:
        max_drop: largest loss of accuracy against the main network, in points; FLOPs are then as few as possible.
        flops: largest mean FLOPs per sample; accuracy is then as high as possible.
    """

    max_drop: float | None = None
    flops: float | None = None

    def is_met(self, found: Outcome, *, margin: float = 0.0) -> bool:
        """Tell whether a goal is met, by some standard errors more than needed."""
        if self.max_drop is not None:
            return found.drop + 100 * margin * found.drop_error <= self.max_drop + 1e-9
        assert self.flops is not None
        return found.mean_flops + margin * found.flops_error <= self.flops

    def order(self, found: Outcome) -> tuple[float, float]:
        """Return what outcomes that meet the goal are sorted by, the best first."""
        by = (found.mean_flops, -found.accuracy)
        return by if self.max_drop is not None else by[::-1]

    def excess(self, found: Outcome) -> float:
        """Return by how much a goal is missed, in points or FLOPs; negative where it is met."""
        return found.drop - self.max_drop if self.max_drop is not None else found.mean_flops - (self.flops or 0)


def fit(outputs: ExitOutputs, temperatures: Sequence[float], costs: ExitCosts, goal: Goal) -> tuple[Setting, bool]:
    """Choose exits and thresholds for a goal.

    Args:
        outputs: outputs of every exit on the samples to fit on.
        temperatures: temperature of each exit.
        costs: FLOPs.
        goal: goal; it has to be met with a margin of `MARGIN` standard errors.

    Returns:
        The best setting for the goal, and whether it meets it with the margin; otherwise the nearest.
    """
    confidence = confidences(outputs.logits, temperatures)

    def measured(setting: Setting) -> tuple[Setting, Outcome]:
        return setting, outcome(outputs, confidence, setting, costs)

    def best(found: Sequence[tuple[Setting, Outcome]]) -> list[tuple[Setting, Outcome]]:
        """Return those that meet the goal, the best first, and then those that miss it, the nearest first."""
        meets = [goal.is_met(each, margin=MARGIN) for _, each in found]
        order = [
            goal.order(each) if met else (goal.excess(each), 0.0) for (_, each), met in zip(found, meets, strict=True)
        ]
        return [found[place] for place in sorted(range(len(found)), key=lambda place: (not meets[place], order[place]))]

    found = best([measured(setting) for setting in possible_settings(outputs, confidence, costs)])
    # a price finds no setting between two of its own; single thresholds do, also of those that just miss the goal
    first_miss = sum(goal.is_met(each, margin=MARGIN) for _, each in found)
    nearby = found[:POLISHED] + found[max(first_miss, POLISHED) :][:POLISHED]
    for _ in range(ROUNDS):
        tried = [measured(each) for setting, _ in nearby for each in _neighbours(setting, confidence)]
        nearby = best([*nearby, *tried])[:POLISHED]
    setting, chosen = nearby[0]
    return setting, goal.is_met(chosen, margin=MARGIN)


def _neighbours(setting: Setting, confidence: Tensor) -> list[Setting]:
    """List the settings in which one threshold is another, or one exit more or less is asked."""
    *_, last = setting.exits
    thresholds = dict(zip(setting.exits, setting.thresholds, strict=False))
    levels = torch.linspace(0, 1, LEVELS, dtype=confidence.dtype)
    found = []
    for exit in range(last):
        for threshold in [*sorted(set(confidence[exit].quantile(levels).tolist())), math.inf]:
            changed = {name: each for name, each in sorted({**thresholds, exit: threshold}.items()) if each <= 1}
            found.append(Setting((*changed, last), tuple(changed.values())))
    return found
