"""Find the ensembles of exits: every subset, with weights that are fitted on validation.

All functions here are pure.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.errors import NetworkError
from lctprune.measure.early_exit import ExitCosts
from lctprune.measure.outputs import ExitOutputs

MOST_EXITS = 12  # 4,083 subsets
ITERATIONS = 200
LEAST_WEIGHT = 0.005  # which is shown as 0.00


class Ensemble(NamedTuple):
    """A subset of exits that answer together.

    Attributes:
        exits: numbers of the exits, in ascending order.
        weights: weight of each exit, as chosen.
        is_fitted: whether the fitted weights were better than equal ones on samples that they were not fitted on.
        loss: mean cross-entropy; of fitted weights, on samples that they were not fitted on.
        sum_loss: mean cross-entropy of the plain sum.
        correct: whether each sample is right, [n]; of fitted weights, on samples that they were not fitted on.
        sum_accuracy: accuracy of the plain sum.
        flops: FLOPs per sample: groups up to the deepest exit, and the critics of the exits.
    """

    exits: tuple[int, ...]
    weights: tuple[float, ...]
    is_fitted: bool
    loss: float
    sum_loss: float
    correct: Tensor
    sum_accuracy: float
    flops: int

    @property
    def is_smaller(self) -> bool:
        """Whether one of the exits has no weight, so that the others answer alike without it, for less."""
        return min(self.weights) < LEAST_WEIGHT


def subsets(exits: int) -> list[tuple[int, ...]]:
    """List every subset of at least two exits.

    Raises:
        NetworkError: there are too many.
    """
    if exits > MOST_EXITS:
        raise NetworkError(f"the network has {exits} exits, too many to try every subset; at most {MOST_EXITS}")
    return [each for size in range(2, exits + 1) for each in itertools.combinations(range(exits), size)]


def fit_weights(likelihoods: Tensor) -> Tensor:
    """Fit the weights of a mixture: the mean of -log(sum_k w_k p_k) is least, over the simplex.

    The problem is convex; the multiplicative steps of EM approach its minimum monotonously.

    Args:
        likelihoods: probability of the true class by each exit, [exits, n].

    Returns:
        Weights, [exits], with the sum 1.
    """
    likelihoods = likelihoods.double().clamp(min=1e-12)
    weights = torch.full((len(likelihoods),), 1 / len(likelihoods), dtype=torch.double)
    for _ in range(ITERATIONS):
        weights = weights * (likelihoods / (weights @ likelihoods)).mean(1)
    return weights / weights.sum()


def ensembles(outputs: ExitOutputs, parts: tuple[Tensor, Tensor], costs: ExitCosts) -> list[Ensemble]:
    """Evaluate every subset of at least two exits.

    Weights are fitted on each half of the samples and judged on the other. Where they lose to equal weights there by
    their cross-entropy, the ensemble is the plain sum; otherwise its weights are fitted on all samples.

    Args:
        outputs: outputs of every exit on the validation split.
        parts: places of the samples of each half.
        costs: FLOPs.

    Raises:
        NetworkError: there are too many exits.
    """
    probabilities = outputs.logits.double().softmax(2)  # [exits, n, classes]
    return [
        _ensemble(exits, probabilities[list(exits)], outputs.targets, parts, costs)
        for exits in subsets(len(costs.groups))
    ]


def _ensemble(
    exits: tuple[int, ...], probabilities: Tensor, targets: Tensor, parts: tuple[Tensor, Tensor], costs: ExitCosts
) -> Ensemble:
    likelihoods = probabilities.gather(2, targets.expand(len(exits), -1)[..., None])[..., 0]  # [exits, n]
    together, plain = torch.empty_like(probabilities[0]), probabilities.mean(0)
    for own, other in (parts, parts[::-1]):
        weights = fit_weights(likelihoods[:, own])
        together[other] = torch.einsum("e,enc->nc", weights, probabilities[:, other])
    loss, sum_loss = (_cross_entropy(each, targets) for each in (together, plain))
    is_fitted = loss < sum_loss
    chosen = together if is_fitted else plain
    weights = fit_weights(likelihoods) if is_fitted else torch.full((len(exits),), 1 / len(exits))
    return Ensemble(
        exits=exits,
        weights=tuple(weights.tolist()),
        is_fitted=is_fitted,
        loss=min(loss, sum_loss),
        sum_loss=sum_loss,
        correct=chosen.argmax(1) == targets,
        sum_accuracy=(plain.argmax(1) == targets).double().mean().item(),
        flops=sum(costs.groups[: exits[-1] + 1]) + sum(costs.critics[exit] for exit in exits),
    )


def _cross_entropy(probabilities: Tensor, targets: Tensor) -> float:
    return -probabilities.gather(1, targets[:, None]).clamp(min=1e-12).log().mean().item()
