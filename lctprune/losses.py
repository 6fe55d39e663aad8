"""Losses per sample: `loss(output, target) -> [batch]`. Any callable of that form will do."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 4.0  # of softened outputs
Loss = Callable[[Tensor, Tensor], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]  # of an output from a teacher's: [batch]


def cross_entropy(output: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each sample, averaged over further dimensions (time, space) where there are any.

    Args:
        output: logits, [batch, classes] or [batch, classes, ...].
        target: class indices, [batch] or [batch, ...].
        label_smoothing: the share of probability that goes to all classes alike, 0 to 1.

    Returns:
        [batch], in at least single precision.
    """
    losses = functional.cross_entropy(
        _at_least_single(output), target, reduction="none", label_smoothing=label_smoothing
    )
    return mean_per_sample(losses)


def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of each sample, averaged over its outputs.

    Args:
        output: [batch] or [batch, ...].
        target: as many elements per sample as `output` has.

    Returns:
        [batch], in at least single precision.

    Raises:
        ValueError: `target` has another number of samples, or of elements, than `output`.
    """
    if output.shape[:1] != target.shape[:1] or output.numel() != target.numel():
        raise ValueError(
            f"the target's shape {list(target.shape)} does not go with the output's {list(output.shape)}; "
            "both need the same number of elements per sample"
        )
    output = _at_least_single(output)
    squared = (output - target.reshape(output.shape).to(output.dtype)).square()
    return mean_per_sample(squared)


def softened_distance(output: Tensor, teacher: Tensor) -> Tensor:
    """T^2 KL(softmax(teacher / T), softmax(output / T)) with T = 4 (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).

    Args:
        output: logits, [batch, classes] or [batch, classes, ...].
        teacher: as many, detached.

    Returns:
        [batch], in at least single precision.
    """
    log_probabilities, wanted = (
        functional.log_softmax(_at_least_single(logits) / TEMPERATURE, 1) for logits in (output, teacher)
    )
    divergence = functional.kl_div(log_probabilities, wanted, reduction="none", log_target=True).sum(1)
    return TEMPERATURE**2 * mean_per_sample(divergence)


def distance_to_teacher(*, is_regression: bool) -> Distance:
    """Of classes `softened_distance`, of a regression `mean_squared_error`."""
    return mean_squared_error if is_regression else softened_distance


def default_loss(targets: Tensor, *, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy for class indices, mean squared error for floating-point targets."""
    if targets.is_floating_point():
        return mean_squared_error
    return functools.partial(cross_entropy, label_smoothing=label_smoothing)


def mean_per_sample(losses: Tensor) -> Tensor:
    """[batch] of [batch, ...]: means."""
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def _at_least_single(output: Tensor) -> Tensor:
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
