"""How important each channel is, by a criterion of Torch-Pruning, some of which need gradients; what a cut costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lctprune.data.splits import Batch
from lctprune.errors import ConfigError
from lctprune.losses import Loss
from lctprune.pruning.dependencies import require_engine
from lctprune.pruning.engine import Importance
from lctprune.utils.modules import evaluation_mode, laid_out, training_layout

Criterion = Literal["magnitude", "bn", "lamp", "taylor", "exits"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
WITH_GRADIENTS: tuple[Criterion, ...] = ("taylor", "exits")
Choice = Literal["auto"] | Criterion
AUTO: Choice = "auto"  # of `TRIED`, that whose mild cut leaves the lowest loss
TRIED: tuple[Criterion, ...] = ("magnitude", "taylor")
RANKING_SAMPLES = 1024  # whose gradients are summed, to rank channels
TRIAL_SAMPLES = 512  # whose losses tell what a cut destroys
SCALES = tuple(2 ** (power / 2) for power in range(-12, 5))  # of logits, which a cut leaves too large or too small


def criteria_of(importance: Choice) -> tuple[Criterion, ...]:
    """Return the criteria that are tried: `TRIED` for auto, or else the one.

    Raises:
        ConfigError: there is no such criterion.
    """
    if importance == "auto":
        return TRIED
    if importance not in CRITERIA:
        raise ConfigError(f"importance is {importance!r}; it must be one of {', '.join((AUTO, *CRITERIA))}")
    return (importance,)


def importance_of(criterion: Criterion) -> Importance:
    """Return the importance of channels by a criterion.

    `magnitude` is the L2 norm of a channel's weights; `bn` the scale of its batch norm (Liu et al. 2017, arXiv
    1708.06519); `lamp` the norm among those of its layer (Lee et al. 2021, arXiv 2010.07611); `taylor` and `exits` the
    first-order change of a loss without it (Molchanov et al. 2019): that of the network's own exit, or the sum of those
    of all exits up to it.

    Raises:
        ConfigError: Torch-Pruning is not installed.
    """
    importances = require_engine().importance
    made: Any = {
        "magnitude": importances.GroupMagnitudeImportance,
        "bn": importances.BNScaleImportance,
        "lamp": importances.LAMPImportance,
    }.get(criterion, importances.GroupTaylorImportance)
    return made()  # type: ignore[no-any-return]


def set_gradients(
    network: nn.Module,
    outputs: Callable[[Tensor], Iterable[Tensor]],
    batches: Iterable[Batch],
    loss: Loss,
    *,
    device: str,
) -> None:
    """Set the gradients of a network to those of the summed losses of its outputs, in evaluation mode.

    Args:
        network: network on `device`.
        outputs: function that gives the outputs whose losses count.
        batches: samples; about `RANKING_SAMPLES` of them count.
        loss: loss per sample.
        device: device that computes.
    """
    network.zero_grad(set_to_none=True)
    layout = training_layout(network, device)
    with evaluation_mode(network), torch.enable_grad():
        for inputs, targets in _first(batches, RANKING_SAMPLES):
            labels = targets.to(device)
            each = [loss(output, labels).mean() for output in outputs(laid_out(inputs.to(device), layout))]
            torch.stack(each).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in network.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def damage_of(network: nn.Module, batches: Iterable[Batch], loss: Loss, *, device: str) -> float:
    """Say how much of what a network knew a cut has destroyed: its loss, as a fraction of that of a constant answer.

    Batch norm has the statistics of each batch, as those of the whole network no longer hold, and logits are scaled by
    the one factor of `SCALES` that is best for all: training mends both at once, and what is left of the features
    counts.

    Args:
        network: network on `device`; the running statistics of its batch norm are moved.
        batches: samples; about `TRIAL_SAMPLES` of them count.
        loss: loss per sample.
        device: device that computes.

    Returns:
        The fraction; infinity where no loss is finite.
    """
    layout, found = training_layout(network, device), []
    with evaluation_mode(network), torch.no_grad():
        for module in network.modules():
            module.training = isinstance(module, _BatchNorm)
        for inputs, targets in _first(batches, TRIAL_SAMPLES):
            if len(targets) > 1:  # one sample has no statistics
                found.append((network(laid_out(inputs.to(device), layout)), targets.to(device)))
    if not found:
        return math.inf
    outputs, labels = (torch.cat(each) for each in zip(*found, strict=True))
    is_number = labels.is_floating_point()
    constant = labels.mean(0) if is_number else labels.bincount(minlength=outputs.shape[1]).clamp(min=1).log()
    scales: tuple[float, ...] = (1.0,) if is_number else SCALES
    losses = torch.stack([loss(scale * outputs, labels).mean() for scale in scales])
    guess = loss(constant.expand_as(outputs).to(outputs.dtype), labels).mean()
    return (losses.nan_to_num(math.inf).min() / guess).nan_to_num(math.inf, math.inf).item()


def _first(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    """Yield whole batches until there are so many samples."""
    count = 0
    for inputs, targets in batches:
        yield inputs, targets
        count += len(targets)
        if count >= samples:
            return
