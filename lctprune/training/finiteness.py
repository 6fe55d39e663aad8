"""Find where a value that is not finite comes from: the data, the weights, or the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lctprune.data.splits import Split
from lctprune.data.tensor_split import TensorSplit
from lctprune.errors import DataError, NetworkError, TrainingError
from lctprune.network import LocalCriticNetwork

MOST_NAMED = 3  # columns or tensors in a message
SLOWER = "try a smaller `lr`, such as a third of {lr:g}"
DIVERGED = f"the data is finite, so training has diverged; {SLOWER}"
AT_FIRST_STEP = (
    "the data and the weights are finite, and no learning rate has acted yet, so the network or the loss itself makes "
    "it, for instance by a division by 0 or a logarithm of 0"
)
STATISTICS = ("running_mean", "running_var")  # other buffers may well be infinite, such as masks


class _Found(NamedTuple):
    """Samples with values that are not finite."""

    value: float  # nan, or an infinity
    samples: int
    first: int  # number of the first such sample, from 0
    columns: tuple[int, ...] = ()  # of a table


def require_finite_weights(network: LocalCriticNetwork) -> None:
    """Refuse a network with weights that are not finite, before any learning rate has acted.

    Raises:
        NetworkError: a parameter or statistic is not finite, or a buffer is nan; the message names it.
    """
    bad = [(name, tensor) for name, tensor in _weights(network) if not _is_finite(tensor)]
    if not bad:
        return
    name, tensor = bad[0]
    source = network.recipe.weights if network.recipe else None
    count = int((~tensor.isfinite()).sum())
    others = f", and {len(bad) - 1} other tensors are not finite" if len(bad) > 1 else ""
    raise NetworkError(
        f"the weights{f' of {source}' if source else ''} hold {_first_value(tensor)} before training: {name} does, in "
        f"{count} of {tensor.numel()} values{others}; give weights that are finite"
    )


def require_finite_targets(name: str, targets: Tensor) -> None:
    """Refuse targets that are not finite.

    Raises:
        DataError: there are such targets.
    """
    if found := _look(targets):
        raise DataError(
            f"the targets of the {name} split {_described(found, len(targets))}; correct or leave out these samples"
        )


def require_finite_inputs(
    name: str, split: Split, run: Callable[[Tensor], Sequence[Tensor]], columns: Sequence[str] = ()
) -> None:
    """Refuse inputs in memory that are not finite, and make an output that is not; others are seen in their batch.

    Args:
        name: name of the split.
        split: samples.
        run: function that returns the outputs of all exits.
        columns: names of a table's columns.

    Raises:
        DataError: there are such inputs.
    """
    if not isinstance(split, TensorSplit) or not split.inputs.is_floating_point():
        return
    found = _look(split.inputs)
    if found and not all(output.isfinite().all() for output in run(split.inputs[found.first : found.first + 1])):
        raise DataError(
            f"the inputs of the {name} split {_described(found, len(split.inputs), columns)}; correct or leave out "
            "these samples"
        )


def reason_in_batch(inputs: Tensor, targets: Tensor, *, lr: float, is_received: bool, is_first_step: bool) -> str:
    """Say why the loss of a batch is not finite, after a look at the batch.

    Args:
        inputs: inputs of the first group here, [batch, ...].
        targets: targets, [batch, ...].
        lr: peak learning rate.
        is_received: whether the inputs are what groups in another process made.
        is_first_step: whether no step was taken before.
    """
    if is_received and not _is_finite(inputs):
        return f"what the groups before gave is not finite either: look at the data, or {SLOWER.format(lr=lr)}"
    for name, tensor in (("inputs", inputs), ("targets", targets)):
        if found := _look(tensor):
            return f"the {name} of this batch {_described(found, len(tensor))}; correct or leave out such samples"
    return AT_FIRST_STEP if is_first_step else DIVERGED.format(lr=lr)


def reason_in_split(name: str, split: Split, batch_size: int, lr: float) -> str:
    """Say why the loss on a split is not finite, after a look at its samples.

    Args:
        name: name of the split.
        split: samples.
        batch_size: samples per batch.
        lr: peak learning rate.
    """
    start = 0
    for inputs, targets in split.batches(batch_size):
        for part, tensor in (("inputs", inputs), ("targets", targets)):
            if found := _look(tensor):
                return (
                    f"the {part} of the {name} split hold {found.value}, first in sample {start + found.first}, "
                    "counted from 0; correct or leave out such samples"
                )
        start += len(targets)
    return DIVERGED.format(lr=lr)


def not_finite(losses: Sequence[float], first_exit: int | None) -> Iterator[tuple[int | None, float]]:
    """Yield exits whose loss is not finite; None for a network whose only exit is its output."""
    for exit, value in enumerate(losses, start=first_exit or 0):
        if not math.isfinite(value):
            yield None if first_exit is None else exit, value


def failure(exit: int | None, value: float, epoch: int, step: int, reason: str, where: str = "") -> TrainingError:
    """Make the error of a loss that is not finite.

    Args:
        exit: number of the exit; None for a network whose only exit is its output.
        value: the loss.
        epoch: number of the epoch, from 0.
        step: number of the step in the epoch, from 0.
        reason: cause and remedy.
        where: which data, if not a batch of training.
    """
    which = "" if exit is None else f" of exit {exit}"
    kept = ". The last checkpoint is unharmed" if epoch else ""
    return TrainingError(f"the loss{which} is {value} at epoch {epoch + 1}, step {step + 1}{where}: {reason}{kept}")


def _weights(network: LocalCriticNetwork) -> Iterator[tuple[str, Tensor]]:
    for kind, modules in (("group", network.groups), ("critic", network.critics)):
        for index, module in enumerate(modules):
            for name, parameter in module.named_parameters():
                if not is_lazy(parameter):
                    yield f"{name} of {kind} {index}", parameter.detach()
            for name, buffer in module.named_buffers():
                if is_lazy(buffer):
                    continue
                is_statistic = name.rpartition(".")[2] in STATISTICS
                yield f"{name} of {kind} {index}", buffer if is_statistic else _nan_alone(buffer)


def _nan_alone(buffer: Tensor) -> Tensor:
    return buffer.nan_to_num(nan=float("nan")) if buffer.is_floating_point() else buffer


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # a sum needs no memory of the tensor's size; it may overflow where all values are finite
    return bool(tensor.sum(dtype=None if tensor.is_complex() else torch.float64).isfinite() or tensor.isfinite().all())


def _look(tensor: Tensor) -> _Found | None:
    """Find samples, [n, ...], with values that are not finite."""
    if _is_finite(tensor):
        return None
    bad = ~tensor.isfinite()
    rows = bad.flatten(1).any(1) if bad.dim() > 1 else bad
    columns = tuple(bad.any(0).nonzero()[:, 0].tolist()) if bad.dim() == 2 else ()
    return _Found(_first_value(tensor), int(rows.sum()), int(rows.nonzero()[0, 0]), columns)


def _first_value(tensor: Tensor) -> float:
    return float(tensor[~tensor.isfinite()][0])


def _described(found: _Found, samples: int, columns: Sequence[str] = ()) -> str:
    named = [columns[index] for index in found.columns if index < len(columns)]
    rest = ", ..." if len(named) > MOST_NAMED else ""
    where = f" in {', '.join(named[:MOST_NAMED])}{rest}," if named else ""
    first = f"sample {found.first}, counted from 0"
    return f"hold {found.value},{where} in {found.samples} of {samples} samples (the first is {first})"
