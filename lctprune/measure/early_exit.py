"""Where samples leave a progressive network and what that means, computed from outputs that are known already.

All functions here are pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lctprune.measure.outputs import ExitOutputs

COARSEST, FINEST = -6.0, 6.0  # logarithm of temperatures


class ExitCosts(NamedTuple):
    """FLOPs per sample of each group, and of each critic; the last group has none: 0."""

    groups: tuple[int, ...]
    critics: tuple[int, ...]


@dataclass(frozen=True)
class Setting:
    """Which exits are asked, and when samples leave.

    Attributes:
        exits: numbers of the exits in ascending order; all that is left leaves at the last one.
        thresholds: least confidence for leaving, of each exit but the last.
    """

    exits: tuple[int, ...]
    thresholds: tuple[float, ...]


class Outcome(NamedTuple):
    """What becomes of samples.

    Attributes:
        accuracy: fraction of samples that are right.
        main_accuracy: fraction that the main network has right.
        drop_error: standard error of the difference of the two.
        mean_flops: mean FLOPs per sample.
        flops_error: standard error of the mean FLOPs.
        p95_flops: 95th percentile of the FLOPs per sample.
        shares: fraction of samples that leave at each exit that is asked.
        correct: whether each sample is right, [n].
    """

    accuracy: float
    main_accuracy: float
    drop_error: float
    mean_flops: float
    flops_error: float
    p95_flops: float
    shares: tuple[float, ...]
    correct: Tensor

    @property
    def drop(self) -> float:
        """The loss of accuracy against the main network, in points."""
        return 100 * (self.main_accuracy - self.accuracy)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Fit the temperature of an exit (Guo et al. 2017): the mean cross-entropy of logits / T is least.

    Args:
        logits: [n, classes].
        targets: true classes, [n].
    """
    from scipy.optimize import minimize_scalar  # takes half a second to import

    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return float(functional.cross_entropy(logits / math.exp(log_temperature), targets))

    return math.exp(minimize_scalar(loss, bounds=(COARSEST, FINEST), method="bounded").x)


def confidences(logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Compute the largest probability of a class as a progressive network does, [exits, n].

    Args:
        logits: [exits, n, classes].
        temperatures: one per exit.
    """
    return (logits / torch.tensor(list(temperatures))[:, None, None]).softmax(2).amax(2)


def outcome(outputs: ExitOutputs, confidence: Tensor, setting: Setting, costs: ExitCosts) -> Outcome:
    """Compute where samples leave, and what that means.

    Args:
        outputs: outputs of every exit.
        confidence: confidence of every exit, [exits, n].
        setting: exits and thresholds.
        costs: FLOPs.
    """
    samples = len(outputs.targets)
    asked = confidence[list(setting.exits)]  # [asked exits, n]
    thresholds = torch.tensor([*setting.thresholds, -1.0])
    leaves = asked >= thresholds[:, None]
    leaves[-1] = True
    left = leaves.int().argmax(0)  # first exit at which it leaves, [n]
    price = torch.tensor(_cumulative(setting.exits, costs), dtype=torch.double)
    flops = price[left]
    right = outputs.correct
    correct = right[list(setting.exits)].gather(0, left[None])[0]
    main = right[-1]
    return Outcome(
        accuracy=correct.double().mean().item(),
        main_accuracy=main.double().mean().item(),
        drop_error=(main.double() - correct.double()).std().item() / math.sqrt(samples),
        mean_flops=flops.mean().item(),
        flops_error=flops.std().item() / math.sqrt(samples),
        p95_flops=flops.quantile(0.95, interpolation="higher").item(),
        shares=tuple((left == index).double().mean().item() for index in range(len(setting.exits))),
        correct=correct,
    )


def _cumulative(exits: Sequence[int], costs: ExitCosts) -> list[int]:
    """Return the FLOPs of a sample that leaves at each of the exits."""
    critics = 0
    found = []
    for exit in exits:
        critics += costs.critics[exit]
        found.append(sum(costs.groups[: exit + 1]) + critics)
    return found
