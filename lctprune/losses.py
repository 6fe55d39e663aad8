"""Losses per sample: `loss(output, target) -> [batch]`; any callable of that form will do. Distances to a teacher."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lctprune.errors import ConfigError

TEMPERATURE = 4.0  # divides logits before they are compared
IGNORED = -100  # class number of a target without a class, as in PyTorch
Loss = Callable[[Tensor, Tensor], Tensor]  # (output, target) -> [batch]
Distance = Callable[[Tensor, Tensor], Tensor]  # (output, teacher's output) -> [batch]


def cross_entropy(output: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Compute the cross-entropy per sample, averaged over further dimensions (time, space) if there are any.

    This is l in equation 3 of Lee, Hsieh, Lee 2022 for classification. Class number -100 marks a target without a
    class: it is left out of the average, and a sample without any class has a loss of 0.

    Args:
        output: logits, [batch, classes] or [batch, classes, ...].
        target: class numbers of any integer type, [batch] or [batch, ...]; or probabilities, of the shape of `output`.
        label_smoothing: fraction of the target probability that is spread evenly over all classes, 0 to 1.

    Returns:
        [batch], in at least single precision.
    """
    output, target = _at_least_single(output), class_numbers(target)
    if target.is_floating_point():
        target = target.to(output.dtype)
    losses = functional.cross_entropy(output, target, reduction="none", label_smoothing=label_smoothing)
    if losses.dim() < 2 or target.is_floating_point():
        return mean_per_sample(losses)
    counted = (target != IGNORED).flatten(1).sum(1)  # [batch]
    factor = losses.shape[1:].numel() / counted.clamp(min=1).to(losses.dtype)
    return mean_per_sample(losses) * factor  # of exactly 1 where all targets count


def class_numbers(target: Tensor) -> Tensor:
    """Return targets of any integer type, booleans included, as int64; floating-point targets as they are."""
    return target if target.is_floating_point() else target.long()


def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Compute the mean squared error per sample, averaged over the sample's outputs.

    This is l in equation 3 of Lee, Hsieh, Lee 2022 for regression.

    Args:
        output: predictions, [batch] or [batch, ...].
        target: true values, [batch] or [batch, ...], as many per sample as `output` has.

    Returns:
        [batch], in at least single precision.

    Raises:
        ValueError: `target` and `output` differ in the number of samples or of elements.
    """
    if output.shape[:1] != target.shape[:1] or output.numel() != target.numel():
        raise ValueError(
            f"the target has shape {list(target.shape)} and the output {list(output.shape)}; "
            "both need the same number of elements per sample"
        )
    output = _at_least_single(output)
    squared = (output - target.reshape(output.shape).to(output.dtype)).square()
    return mean_per_sample(squared)


def softened_distance(output: Tensor, teacher: Tensor) -> Tensor:
    """Compute T^2 KL(softmax(teacher / T), softmax(output / T)) per sample, with T = 4.

    This is the distance of knowledge distillation (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).

    Args:
        output: logits, [batch, classes] or [batch, classes, ...].
        teacher: the teacher's logits, of the shape of `output`, detached.

    Returns:
        [batch], in at least single precision.
    """
    log_probabilities, wanted = (
        functional.log_softmax(_at_least_single(logits) / TEMPERATURE, 1) for logits in (output, teacher)
    )
    divergence = functional.kl_div(log_probabilities, wanted, reduction="none", log_target=True).sum(1)
    return TEMPERATURE**2 * mean_per_sample(divergence)


def distance_to_teacher(*, is_regression: bool) -> Distance:
    """Return the default distillation distance: mean squared error for regression, else `softened_distance`."""
    return mean_squared_error if is_regression else softened_distance


def is_own(loss: Loss | None) -> bool:
    """Tell whether a loss is the caller's own: neither the default one nor one of this module."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss not in (None, cross_entropy, mean_squared_error)


def is_cross_entropy(loss: Loss | None) -> bool:
    """Tell whether a loss is `cross_entropy`, with whatever settings."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss is cross_entropy


def default_distance(loss: Loss | None, *, is_regression: bool, distils: bool) -> Distance:
    """Return the default distillation distance of critics, where the loss leaves no doubt about it.

    Args:
        loss: loss that the caller chose; None for the default one.
        is_regression: whether targets are floating-point numbers.
        distils: whether the distance is used at all.

    Raises:
        ConfigError: critics distil, and the loss is one of the caller's own on floating-point targets.
    """
    if is_cross_entropy(loss):
        return softened_distance
    if distils and is_regression and is_own(loss):
        raise ConfigError(
            "critics distil, but a loss of your own on floating-point targets does not tell how far an output is from "
            "the next exit's; give distance=..., or distill=0 for no distillation"
        )
    return distance_to_teacher(is_regression=is_regression)


def default_loss(targets: Tensor, *, label_smoothing: float = 0.0) -> Loss:
    """Return cross-entropy for class indices, or mean squared error for floating-point targets."""
    if targets.is_floating_point():
        return mean_squared_error
    return functools.partial(cross_entropy, label_smoothing=label_smoothing)


def mean_per_sample(losses: Tensor) -> Tensor:
    """Average all dimensions but the first: [batch, ...] -> [batch]."""
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def _at_least_single(output: Tensor) -> Tensor:
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
