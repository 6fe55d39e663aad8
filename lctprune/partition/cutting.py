"""Cut a traceable network into layer groups: trace it, find its cut points, choose some, and make the groups.

The network is traced with torch.fx. It has a cut point after each node behind which exactly one tensor is alive, so
that a group takes one tensor and returns one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lctprune.config.training import ResolvedTrainConfig, TrainConfig
from lctprune.errors import ConfigError, PartitionError, first_line
from lctprune.measure.costs import on_few_samples
from lctprune.optim.optimizers import resolved_for
from lctprune.partition.choosing import (
    BALANCES,
    Balance,
    flop_balanced_cut_points,
    named_cut_points,
    training_balanced_cut_points,
)
from lctprune.partition.choosing_tracer import trace_network
from lctprune.partition.cut_points import (
    CutPoint,
    MeasuredCutPoint,
    distinct_cut_points,
    find_cut_points,
    measure_cut_points,
)
from lctprune.partition.exported.calling import OneTensor, is_transformers_model, logits_of
from lctprune.partition.exported.program import require_same, trace_by_export
from lctprune.partition.layer_group import layer_groups
from lctprune.partition.preserving.comparing import must_run
from lctprune.partition.preserving.guarding import Snapshot, unchanged
from lctprune.partition.preserving.modes import Modes
from lctprune.partition.symbolic.tracing import BY_HAND, WAS_VIEW, Traced, Tracing, require_one_input, trace
from lctprune.utils.modules import evaluation_mode, shared_tensor

CriticCost = Callable[[CutPoint, ResolvedTrainConfig], int]


class Partition(NamedTuple):
    """A network in layer groups, and where it was cut."""

    groups: list[nn.Module]
    cuts: list[CutPoint]
    output_shape: tuple[int, ...]  # of the network's output, without the batch
    tracing: Tracing


def partition_model(
    model: nn.Module,
    example: Tensor,
    *,
    groups: int = 4,
    split_at: Sequence[str] | None = None,
    balance_by: Balance = "flops",
    training: TrainConfig | None = None,
    critic_cost: CriticCost = lambda cut, config: 0,
    known: Tracing | None = None,
) -> Partition:
    """Cut a model into layer groups, which compute in a row what the model computes, on its own parameters.

    Errors and warnings are those of `attach_critics`. The groups keep the names of the model's parameters.

    Args:
        model: network to cut.
        example: input, [batch, ...].
        groups: number of layer groups.
        split_at: names of cut points; replaces `groups`.
        balance_by: what the groups balance.
        training: training whose time or memory is balanced.
        critic_cost: function that returns the time or memory of a critic at a cut point.
        known: how the model was traced before; then the groups are not compared with it again.
    """
    if groups < 1:
        raise ConfigError(f"groups is {groups}; it must be at least 1")
    if balance_by not in BALANCES:
        raise ConfigError(f"balance is {balance_by!r}; it must be one of {', '.join(BALANCES)}")
    require_one_input(model)
    _initialize(model, example)
    with unchanged(model) as snapshot:
        output = None if split_at else _output(model, example)  # so that what fails later is not the model itself
        example = example[:1].detach().contiguous()
        if output is not None and groups == 1:
            whole, tracing = _whole(model, example, snapshot, known)
            return Partition([whole], [], tuple(output.shape[1:]), tracing)
        traced = trace_network(model, example, snapshot=snapshot, known=known)
        if split_at:  # known cut points need shapes, but neither costs nor a search
            with must_run(model, example):
                points = find_cut_points(traced, example)
            cuts, shape = named_cut_points(traced, points, split_at), points[-1].shape
        else:
            measured = measure_cut_points(traced, example)
            cuts = _balanced_cut_points(traced, measured, example, groups, balance_by, training, critic_cost)
            shape = measured[-1].shape
        parts = layer_groups(traced, cuts)
        if traced.by_export and known is None:
            require_same(traced, parts, example, snapshot)
    if shared := shared_tensor(parts):  # in training only: cut points are found in evaluation mode
        raise PartitionError(
            f"the parameter {shared} is used on both sides of a cut point; cut elsewhere, or {BY_HAND}"
        )
    return Partition(parts, cuts, shape, traced.tracing)


def possible_cut_points(model: nn.Module, example: Tensor) -> list[MeasuredCutPoint]:
    """Find the cut points among which a balanced partition chooses.

    Raises:
        PartitionError: the model cannot be traced.
    """
    return all_cut_points(model, example)[:-1]


def all_cut_points(model: nn.Module, example: Tensor, *, also: Collection[str] = ()) -> list[MeasuredCutPoint]:
    """Find the possible cut points, those at the nodes named in `also`, and the output, in the network's order.

    Raises:
        PartitionError: the model cannot be traced.
    """
    with unchanged(model) as snapshot:
        points = measure_cut_points(trace_network(model, example, snapshot=snapshot), example)
    distinct = distinct_cut_points(points)
    return [point for point in points if point in distinct or point.node_name in also]


def _balanced_cut_points(
    traced: Traced,
    points: Sequence[MeasuredCutPoint],
    example: Tensor,
    groups: int,
    balance_by: Balance,
    training: TrainConfig | None,
    critic_cost: CriticCost,
) -> list[CutPoint]:
    if balance_by == "flops":
        return flop_balanced_cut_points(points, groups)
    here = dataclasses.replace(training or TrainConfig(), device="cpu")  # where networks are built
    return training_balanced_cut_points(
        traced,
        points,
        groups,
        balance_by=balance_by,
        example=example,
        config=resolved_for(traced.root, example, here),
        critic_cost=critic_cost,
    )


def _output(model: nn.Module, example: Tensor) -> Tensor:
    """Run the model on one sample, or on two where it does not run on one, as batch norm without statistics does."""
    called = OneTensor(model)
    with evaluation_mode(model), torch.no_grad():
        try:
            output = on_few_samples(lambda samples: logits_of(called.output(samples)), example.contiguous())
        except Exception as error:  # whatever the model's own code raises
            with must_run(model, example):
                called.output(example)
            raise PartitionError(
                f"{type(model).__name__} runs on {len(example)} samples, but neither on 1 nor on 2 "
                f"({first_line(error)}); layer groups must run on any number"
            ) from error
    if not isinstance(output, Tensor):
        raise PartitionError(f"{type(model).__name__} does not return one tensor; {BY_HAND}")
    return output


def _initialize(model: nn.Module, example: Tensor) -> None:
    """Run a model that has lazy parameters, which only then have a shape."""
    if any(map(is_lazy, itertools.chain(model.parameters(), model.buffers()))):
        _output(model, example)


def _whole(model: nn.Module, example: Tensor, snapshot: Snapshot, known: Tracing | None) -> tuple[nn.Module, Tracing]:
    """Return the model as the only group, and how it was traced.

    It is traced where a group does what the model itself would not. Then it has other outputs than one tensor, or
    modules that are to stay in evaluation mode; or flattens by `view`, which cannot take the channels-last memory
    layout of training.
    """
    if is_transformers_model(model):
        traced = trace_by_export(model, example, snapshot, known=known)
        parts = layer_groups(traced, [])
        if known is None:
            require_same(traced, parts, example, snapshot)
        return parts[0], traced.tracing
    if known is not None and known.tracer == "none":
        return model, known
    try:
        traced = trace(model, example, snapshot=snapshot, known=known)
    except PartitionError:  # it need not be cut, so it need not be traced
        left = next((path for path, module in model.named_modules() if model.training and not module.training), None)
        if left is not None:
            raise
        return model, Tracing("none")
    was_view = any(WAS_VIEW in node.meta for node in traced.training.nodes)
    if traced.has_auxiliary or was_view or traced.modes != Modes():
        return layer_groups(traced, [])[0], traced.tracing
    return model, Tracing("none")
