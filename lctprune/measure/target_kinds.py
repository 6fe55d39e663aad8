"""Find out what targets are, and so what exits can be compared by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lctprune.errors import ConfigError, DataError
from lctprune.losses import IGNORED, Loss, class_numbers, is_cross_entropy, is_own, mean_squared_error
from lctprune.measure.loss_trials import (
    MOST_ROWS,
    is_lowest_at_target,
    leaves_out,
    rewards,
    takes_class_numbers,
    treatment,
)

# class numbers; probabilities of classes; 0 or 1 for each output, or missing; numbers to predict; anything else
Kind = Literal["classes", "probabilities", "labels", "numbers", "other"]
MOST_NUMBERS = 2**16  # in an output, beyond which a loss is tried on one row
MOST_OUTSIDE = 16  # different numbers that are no classes
ROW_SUM_TOLERANCE = 1e-3


def kind_of(shape: Sequence[int], targets: Tensor, loss: Loss | None, *, device: torch.device | None = None) -> Kind:
    """Find out what targets are; a loss of the caller's own is tried on a few of them.

    Args:
        shape: shape of one sample's output.
        targets: targets, [n, ...].
        loss: loss per sample; None for the default one.
        device: device on which a loss of the caller's own works; by default that of the targets.

    Raises:
        DataError: a number is beyond the classes of the outputs, or class numbers are floating-point numbers.
        ValueError: the default loss does not take such targets for such outputs.
    """
    if loss is not None and is_own(loss):
        return _kind_by_own(shape, targets, loss, device or targets.device)
    if targets.is_floating_point() and _are_probabilities(shape, targets):
        return "probabilities"
    if is_cross_entropy(loss) or (loss is None and not targets.is_floating_point()):
        if targets.is_floating_point():
            raise DataError(
                float_classes(targets) or "cross-entropy needs class numbers, or probabilities in rows of 1"
            )
        if not _are_class_shaped(shape, targets):
            raise ValueError("class numbers need outputs of [batch, classes, ...]")
        require_classes(targets, shape, loss)
        return "classes"
    mean_squared_error(torch.zeros(1, *shape), targets[:1].cpu())  # raises ValueError where the shapes do not fit
    return "numbers"


def default_metric(kind: Kind, shape: Sequence[int]) -> str:
    """Return what exits are compared by where the caller does not say.

    Args:
        kind: kind of the targets.
        shape: shape of one sample's output.
    """
    if kind in ("classes", "probabilities"):
        return "accuracy"
    if kind == "labels":
        return "map" if len(shape) < 2 else "loss"
    return "r2" if kind == "numbers" else "loss"


def require_fit(metric: str, kind: Kind, shape: Sequence[int], targets: Tensor, loss: Loss | None) -> None:
    """Refuse a metric that such targets do not have.

    Args:
        metric: setting of the metric.
        kind: kind of the targets.
        shape: shape of one sample's output.
        targets: targets, [n, ...].
        loss: loss per sample; None for the default one.

    Raises:
        ConfigError: the metric needs other targets, or R2 is asked for where the loss is not lowest at the target.
    """
    if metric == "loss":
        return
    of_classes = kind == "probabilities" or (
        not targets.is_floating_point() and _are_class_shaped(shape, targets) and shape[0] > 1
    )
    if metric == "map":
        fits, needs = (
            of_classes or kind == "labels" or _are_labels(shape, targets),
            "classes, or 0 and 1 for each output",
        )
    elif metric == "r2":
        fits = _are_as_many(shape, targets) and is_lowest_at_target(loss, targets)
        needs = "numbers that the outputs approach"
    else:
        fits, needs = of_classes, "one class for [batch, classes, ...] outputs"
    if not fits:
        given = "a loss of your own" if is_own(loss) else "the default loss"
        raise ConfigError(
            f"metric {metric} needs targets that are {needs}; these are {targets.dtype} of {list(targets.shape[1:])} "
            f"per sample for outputs of {list(shape)}, with {given}; give metric {default_metric(kind, shape)}, or auto"
        )


def require_classes(
    targets: Tensor,
    shape: Sequence[int],
    loss: Loss | None,
    where: str = "there is",
    *,
    device: torch.device | None = None,
) -> bool:
    """Refuse class numbers that the loss does not take; -100 marks a target without a class.

    Args:
        targets: class numbers, [n, ...].
        shape: shape of one sample's output, [classes, ...].
        loss: loss per sample; None for the default one.
        where: beginning of the message.
        device: device on which a loss of the caller's own works; by default that of the targets.

    Returns:
        False where a loss of the caller's own takes further numbers as it takes classes, such as counts.

    Raises:
        DataError: a number is negative, or at least the number of classes.
    """
    for number in _outside(targets, shape[0]):
        if loss is not None and is_own(loss):
            how = treatment(loss, shape, number, device or targets.device)
        else:
            how = "ignored" if number == IGNORED else "refused"
        if how == "refused":
            raise DataError(f"{where} a target of {number}; the outputs have classes 0 to {shape[0] - 1}")
        if how == "counted":
            return False
    return True


def as_classes(targets: Tensor, classes: int) -> Tensor:
    """Return class numbers, with -1 for targets without a class; of probabilities the largest one's number.

    Args:
        targets: class numbers, or probabilities, [n, classes, ...].
        classes: number of classes; numbers beyond are those that a loss ignores.
    """
    if targets.is_floating_point():
        return targets.argmax(1)
    numbers = class_numbers(targets)
    return numbers.where((numbers >= 0) & (numbers < classes), -1)


def differ(targets: Tensor) -> bool:
    """Return whether targets differ from sample to sample, so that they have a variance to explain, as R2 does."""
    return not bool((targets == targets[:1]).all())


def float_classes(targets: Tensor) -> str | None:
    """Explain floating-point targets that are whole numbers; None for others."""
    if not targets.is_floating_point() or not bool((targets == targets.round()).all()):
        return None
    return (
        f"the targets are whole numbers from {targets.min():g} to {targets.max():g}, but of type {targets.dtype}; "
        "class numbers are integers: give targets.long()"
    )


def _kind_by_own(shape: Sequence[int], targets: Tensor, loss: Loss, device: torch.device) -> Kind:
    rows = _rows(targets, shape).to(device)
    if not targets.is_floating_point() and _are_class_shaped(shape, targets) and shape[0] > 1:
        if not require_classes(targets, shape, loss, device=device):
            return "other"
        inside = class_numbers(rows).clamp(0, shape[0] - 1)
        signs = nn.functional.one_hot(inside, shape[0]).movedim(-1, 1) * 2.0 - 1
        return "classes" if rewards(loss, signs, class_numbers(rows), otherwise=True) else "other"
    if targets.is_floating_point() and _are_probabilities(shape, targets) and rewards(loss, 2 * rows - 1, rows):
        return "probabilities"
    if _are_labels(shape, targets, with_missing=True) and _rewards_labels(shape, targets, rows, loss):
        return "labels"
    if (reason := float_classes(targets)) and takes_class_numbers(loss, shape, rows):
        raise DataError(reason)
    return "other"


def _rewards_labels(shape: Sequence[int], targets: Tensor, rows: Tensor, loss: Loss) -> bool:
    """Tell whether a loss falls as outputs move towards labels, and leaves out those that are missing."""
    is_missing = ~is_label(targets).reshape(len(targets), -1)
    if is_missing.any():
        partly = targets[is_missing.any(1) & ~is_missing.all(1)]
        gaps = _rows(partly if len(partly) else targets[is_missing.any(1)], shape).to(rows.device)
        signs, missing = _signs(gaps, shape)
        if not leaves_out(loss, signs, class_numbers(gaps), missing):
            return False
    signs, _ = _signs(rows, shape)
    return rewards(loss, signs, class_numbers(rows), without_limit=True)


def _signs(rows: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return -1 or 1 for each label, and 0 for those that are missing; and which are, [n, *shape]."""
    missing = ~is_label(rows).reshape(-1, *shape)
    return (2.0 * rows - 1).reshape(-1, *shape).masked_fill(missing, 0.0), missing


def _rows(targets: Tensor, shape: Sequence[int]) -> Tensor:
    """Choose rows on which a loss is tried, evenly spread."""
    count = 1 if torch.Size(shape).numel() > MOST_NUMBERS else min(MOST_ROWS, len(targets))
    return targets[torch.arange(count) * len(targets) // count]


def _are_class_shaped(shape: Sequence[int], targets: Tensor) -> bool:
    return len(shape) > 0 and tuple(shape[1:]) == tuple(targets.shape[1:])


def _are_as_many(shape: Sequence[int], targets: Tensor) -> bool:
    return torch.Size(shape).numel() == targets.shape[1:].numel()


def _are_probabilities(shape: Sequence[int], targets: Tensor) -> bool:
    if not shape or shape[0] < 2 or tuple(shape) != tuple(targets.shape[1:]):
        return False
    return bool((targets >= 0).all() and ((targets.sum(1) - 1).abs() < ROW_SUM_TOLERANCE).all())


def is_label(targets: Tensor) -> Tensor:
    """Return where targets are 0 or 1; other numbers, such as -1 or nan, stand for labels that are missing."""
    return (targets == 0) | (targets == 1)


def _are_labels(shape: Sequence[int], targets: Tensor, *, with_missing: bool = False) -> bool:
    if not _are_as_many(shape, targets):
        return False
    others = targets[~is_label(targets)]
    if not with_missing or not len(others):
        return not len(others)
    others = others[~others.isnan()]
    return bool((others == others[:1]).all() and is_label(targets).any())


def _outside(targets: Tensor, classes: int) -> list[int]:
    """List the different numbers, at most `MOST_OUTSIDE`, that are no classes."""
    targets = class_numbers(targets)
    rest = targets[(targets < 0) | (targets >= classes)]
    found: list[int] = []
    while len(rest) and len(found) < MOST_OUTSIDE:
        found.append(int(rest[0]))
        rest = rest[rest != found[-1]]
    return found
