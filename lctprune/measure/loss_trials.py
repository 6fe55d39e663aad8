"""Try a loss of the caller's own on a few rows, to find out what it does with its targets."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import torch
from torch import Tensor, nn

from lctprune.losses import Loss, is_own

MOST_ROWS, MOST_CLASSES = 32, 1024  # on which a loss is tried


def rewards(
    loss: Loss, direction: Tensor, rows: Tensor, *, without_limit: bool = False, otherwise: bool = False
) -> bool:
    """Tell whether a loss is lower for outputs in a direction than for those in the opposite one.

    Args:
        loss: loss per sample, of logits or of probabilities.
        direction: -1 to 1, [n, *output].
        rows: targets, [n, ...].
        without_limit: whether it must also fall beyond the targets, as it does for logits, but not for predictions.
        otherwise: answer if the loss takes neither.
    """
    against, near, far = (_tried(loss, scale * direction, rows) for scale in (-1.0, 1.0, 3.0))
    if against is None or near is None or far is None:
        against, near, far = (_tried(loss, 0.5 + scale * direction, rows) for scale in (-0.1, 0.1, 0.4))
    if against is None or near is None or far is None:
        return otherwise
    return bool(near.mean() < against.mean() and (far.mean() < near.mean() or not without_limit))


def leaves_out(loss: Loss, direction: Tensor, rows: Tensor, missing: Tensor) -> bool:
    """Tell whether a loss does not depend on the outputs whose targets are missing.

    Args:
        loss: loss per sample, of logits or of probabilities.
        direction: -1 to 1, [n, *output].
        rows: targets, [n, ...].
        missing: whether an output's target is missing, [n, *output].
    """
    for centre, reach in ((0.0, 2.0), (0.5, 0.4)):
        outputs = centre + reach * direction
        low, high = (_tried(loss, outputs.masked_fill(missing, centre + step), rows) for step in (-reach, reach))
        if low is not None and high is not None:
            return torch.allclose(low, high)
    return False


def is_distance(loss: Loss, targets: Tensor) -> bool:
    """Tell whether a loss of the caller's own is lowest at the target, as far as it can be tried, so that it compares.

    Args:
        loss: loss per sample.
        targets: targets, [n, ...].
    """
    return _lowest_at_target(loss, targets) is True


def treatment(
    loss: Loss, shape: Sequence[int], number: int, device: torch.device
) -> Literal["ignored", "counted", "refused"]:
    """Tell what a loss does with a number that is no class; "ignored" where it cannot be tried.

    Args:
        loss: loss per sample.
        shape: shape of one sample's output, [classes, ...].
        number: number that is negative, or at least the number of classes.
        device: device on which the loss works, which may hold weights of classes there.
    """
    with suppress(Exception):  # whatever the caller's own code raises
        return "ignored" if _vanishes(loss, shape, number, device) else "counted"
    with suppress(Exception):
        _vanishes(loss, shape, 0, device)
        return "refused"
    return "ignored"


def ignored_classes(loss: Loss | None, shape: Sequence[int], device: torch.device) -> list[int]:
    """List the classes that a loss of the caller's own ignores: it is 0 there, whatever the output.

    Args:
        loss: loss per sample.
        shape: shape of one sample's output, [classes, ...].
        device: device on which the loss works.
    """
    if loss is None or not is_own(loss) or not 2 <= shape[0] <= MOST_CLASSES:
        return []
    with suppress(Exception):  # whatever the caller's own code raises
        return [number for number in range(shape[0]) if _vanishes(loss, shape, number, device)]
    return []


def takes_class_numbers(loss: Loss, shape: Sequence[int], rows: Tensor) -> bool:
    """Tell whether a loss fails on floating-point targets and takes the integers that they are."""
    output = torch.zeros(len(rows), *shape, device=rows.device)
    numbers = rows.long().clamp(0, shape[0] - 1) if shape else rows.long()
    return _tried(loss, output, rows) is None and _tried(loss, output, numbers) is not None


def is_lowest_at_target(loss: Loss | None, targets: Tensor) -> bool:
    """Tell whether outputs equal to the targets have the lowest loss, so that closer outputs are better."""
    return loss is None or not is_own(loss) or _lowest_at_target(loss, targets) is not False


def _lowest_at_target(loss: Loss, targets: Tensor) -> bool | None:
    """Tell whether outputs equal to the targets have the lowest loss; None where it cannot be tried."""
    rows = targets[:MOST_ROWS]
    for output in (rows.float(), rows.float().unsqueeze(-1)):  # which of the two shapes it takes is not known
        here, above, below = (_tried(loss, output + step, rows) for step in (0.0, 0.5, -0.5))
        if here is not None and above is not None and below is not None:
            return bool((here <= above + 1e-6).all() and (here <= below + 1e-6).all())
    return None


def _vanishes(loss: Loss, shape: Sequence[int], number: int, device: torch.device) -> bool:
    """Tell whether a loss is 0, or undefined, for a class number, whatever the output."""
    small = [min(2, length) for length in shape[1:]]
    output = torch.randn(1, shape[0], *small, generator=torch.Generator().manual_seed(0)).to(device)
    losses = _called(loss, torch.cat([output, -output]), torch.full((2, *small), number, device=device))
    return bool((losses == 0).all() or losses.isnan().all())


def _tried(loss: Loss, output: Tensor, rows: Tensor) -> Tensor | None:
    with suppress(Exception):  # whatever the caller's own code raises
        losses = _called(loss, output, rows)
        return losses if losses.isfinite().all() else None
    return None


def _called(loss: Loss, output: Tensor, rows: Tensor) -> Tensor:
    """Call a loss without changing it, nor any random generator."""
    loss = copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return loss(output, rows).double()
