"""How important each channel is, by one of Torch-Pruning's criteria, some of which need gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lctprune.data.splits import Batch
from lctprune.errors import ConfigError
from lctprune.losses import Loss
from lctprune.pruning.dependencies import require_engine
from lctprune.pruning.engine import Importance
from lctprune.utils.modules import evaluation_mode, laid_out, training_layout

Criterion = Literal["magnitude", "bn", "lamp", "taylor", "exits"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
WITH_GRADIENTS: tuple[Criterion, ...] = ("taylor", "exits")
BATCHES = 16  # whose gradients are summed


def importance_of(criterion: Criterion) -> Importance:
    """Return the importance of channels by a criterion.

    `magnitude` is the L2 norm of a channel's weights; `bn` the scale of its batch norm (Liu et al. 2017, arXiv
    1708.06519); `lamp` the norm among those of its layer (Lee et al. 2021, arXiv 2010.07611); `taylor` and `exits` the
    first-order change of a loss without it (Molchanov et al. 2019): that of the network's own exit, or the sum of those
    of all exits up to it.

    Raises:
        ConfigError: there is no such criterion, or Torch-Pruning is not installed.
    """
    if criterion not in CRITERIA:
        raise ConfigError(f"importance is {criterion!r}; it must be one of {', '.join(CRITERIA)}")
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
        batches: samples; the first `BATCHES` count.
        loss: loss per sample.
        device: device that computes.
    """
    network.zero_grad(set_to_none=True)
    layout = training_layout(network, device)
    with evaluation_mode(network), torch.enable_grad():
        for inputs, targets in itertools.islice(batches, BATCHES):
            labels = targets.to(device)
            each = [loss(output, labels).mean() for output in outputs(laid_out(inputs.to(device), layout))]
            torch.stack(each).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in network.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
