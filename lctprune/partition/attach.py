"""Cut a traceable network into layer groups, and give each group but the last a critic.

The network is traced with torch.fx. A cut may fall after any node behind which exactly one tensor is alive: then a
group takes one tensor and gives one. Cuts are placed so that a cost of the groups balances, or where names say.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor, nn

from lctprune.config.training import TrainConfig
from lctprune.critics import make_critic
from lctprune.errors import ConfigError, NetworkError, PartitionError, first_line
from lctprune.measure.costs import count_parameters, saved_bytes
from lctprune.measure.step_costs import as_timed, critic_time_ns, segment_times_ns, training_bytes
from lctprune.network import LocalCriticNetwork
from lctprune.optim.optimizers import settled
from lctprune.partition.cut_points import BALANCES, CutPoint, balanced_cuts, cut_points, distinct_points, named_cuts
from lctprune.partition.layer_group import layer_groups
from lctprune.partition.tracing import BY_HAND, WAS_VIEW, Traced, require_one_input, trace, without_leftovers
from lctprune.utils.modules import evaluation_mode, shared_tensor

_T = TypeVar("_T")


def attach_critics(
    model: nn.Module,
    example: Tensor,
    *,
    num_outputs: int,
    groups: int = 4,
    critic: str = "tail",
    critic_depth: Sequence[int] | None = None,
    critic_width: Sequence[float] | None = None,
    critic_pool: str = "mean",
    split_at: Sequence[str] | None = None,
    balance_by: str = "flops",
    training: TrainConfig | None = None,
) -> LocalCriticNetwork:
    """Cut a model into layer groups and attach a new critic to each but the last.

    Args:
        model: a network that torch.fx can trace, from one tensor to one tensor. The groups use its own parameters.
        example: an input, [batch, ...]; its values do not matter.
        num_outputs: width of the model's output, and so of every critic's.
        groups: how many layer groups.
        critic: kind of critic: `tail`, `pooled`, `paper` or `linear`.
        critic_depth: depth of each critic of convolutions (see `make_critic`), or one number for all.
        critic_width: factor on the width of each critic, or one for all; by default 1.
        critic_pool: how critics of sequences pool the steps: `mean` or `last`.
        split_at: names of modules or nodes, such as "layer2"; a group ends after each. In place of `groups`. A name
            that stands there twice gets two critics, with an empty group between them.
        balance_by: what cuts balance: `flops`; or what a step of training costs a group and its critic: `time`,
            measured on this processor, or `memory` of activations, weights, gradients and momentum.
        training: the training of which `time` or `memory` is balanced; by default one with default settings.

    Raises:
        NetworkError: the model does not run on the example.
        PartitionError: the model cannot be traced or cut as asked.
        UnknownOperationError: an operation of the model has no FLOP formula.
        ConfigError: a setting does not fit the number of groups, or is unknown.

    Warns:
        NetworkWarning: an auxiliary head of the model is left out.
    """
    count = len(split_at) if split_at else groups - 1
    depths, widths = _one_each("depth", critic_depth, count, None), _one_each("width", critic_width, count, 1.0)

    def critic_behind(cut: CutPoint, depth: int | None, width: float) -> nn.Module:
        return make_critic(
            critic,
            cut.shape,
            num_outputs,
            depth=depth,
            width=width,
            channels_last=cut.channels_last,
            pool=critic_pool,
        )

    def critic_cost(cut: CutPoint, config: TrainConfig) -> int:
        with torch.random.fork_rng(devices=[]), suppress(ConfigError):  # no critic of this kind can stand there
            head = critic_behind(cut, depths[0] if depths else None, widths[0] if widths else 1.0)
            if balance_by == "memory":
                activations = saved_bytes(head, torch.zeros(1, *cut.shape))
                return training_bytes(activations, count_parameters(head), config)
            return critic_time_ns(head, cut.shape, config)
        return 0

    parts, cuts = _partition(
        model,
        example,
        groups=groups,
        split_at=split_at,
        balance_by=balance_by,
        training=training,
        critic_cost=critic_cost,
    )
    shape = _output_shape(parts, example)
    if shape != (num_outputs,):
        raise NetworkError(f"the model gives outputs of shape {list(shape)} a sample, not [{num_outputs}]")
    critics = [critic_behind(*each) for each in zip(cuts, depths, widths, strict=True)]
    network = LocalCriticNetwork(parts, critics)
    network.cuts = tuple(cut.node_name for cut in cuts)
    network.places = tuple(cut.name for cut in cuts)
    return network


def _one_each(name: str, given: Sequence[_T] | None, count: int, default: _T) -> list[_T]:
    """One value for each critic."""
    if given is None:
        return [default] * count
    if len(given) not in (1, count):
        raise ConfigError(f"critic {name} has {len(given)} numbers; give 1, or {count}, one a critic")
    return [*given] * (count if len(given) == 1 else 1)


def partition(
    model: nn.Module,
    example: Tensor,
    *,
    groups: int = 4,
    split_at: Sequence[str] | None = None,
    balance_by: str = "flops",
) -> list[nn.Module]:
    """Cut a model into groups; run one after the other they compute what the model computes, on its own parameters.

    Arguments and errors are those of `attach_critics`. The groups keep the names of the model's parameters.
    """
    return _partition(model, example, groups=groups, split_at=split_at, balance_by=balance_by)[0]


def _partition(
    model: nn.Module,
    example: Tensor,
    *,
    groups: int,
    split_at: Sequence[str] | None,
    balance_by: str,
    training: TrainConfig | None = None,
    critic_cost: Callable[[CutPoint, TrainConfig], int] | None = None,
) -> tuple[list[nn.Module], list[CutPoint]]:
    if groups < 1:
        raise ConfigError(f"groups is {groups}; it must be at least 1")
    if balance_by not in BALANCES:
        raise ConfigError(f"balance is {balance_by!r}; it must be one of {', '.join(BALANCES)}")
    example = example[:1].detach().contiguous()
    _try(model, example)
    if groups == 1 and not split_at:
        return [_whole(model)], []
    with without_leftovers(model):
        traced = trace(model)
        points = cut_points(traced, example, balance_by=balance_by)
        places = distinct_points(points)
        if split_at:
            cuts = named_cuts(traced, points, split_at)
        elif balance_by == "flops":
            cuts = balanced_cuts(places, groups)
        else:
            here = dataclasses.replace(training or TrainConfig(), device="cpu")  # where networks are built
            config = settled(here, model, example)
            cuts = _cuts_for_training(traced, places, example, groups, balance_by, config, critic_cost)
        parts = layer_groups(traced, cuts)
    if shared := shared_tensor(parts):  # in training only: `cut_points` looks at evaluation
        raise PartitionError(f"the parameter {shared} is used on both sides of a cut; cut elsewhere, or {BY_HAND}")
    return parts, cuts


def _try(model: nn.Module, example: Tensor) -> None:
    """Run the model once, so that what fails later is not the model itself."""
    require_one_input(model)
    try:
        with evaluation_mode(model), torch.no_grad():
            model(example)
    except Exception as error:  # whatever the model's own code raises
        raise NetworkError(
            f"{type(model).__name__} does not run on an input of {list(example.shape)} ({first_line(error)}); "
            "check that the data, and the size of an image, are what it takes"
        ) from error


def _whole(model: nn.Module) -> nn.Module:
    """A model as its only group: itself; or traced, where it gives more than its output in training, or flattens by
    `view`, which would need another memory layout than training has."""
    try:
        with without_leftovers(model):
            traced = trace(model)
            is_changed = traced.has_auxiliary or any(WAS_VIEW in node.meta for node in traced.training.nodes)
            return layer_groups(traced, [])[0] if is_changed else model
    except PartitionError:  # it need not be cut, so it need not be traced
        return model


def cut_places(model: nn.Module, example: Tensor) -> list[CutPoint]:
    """The places where `partition` would cut a model by itself.

    Raises:
        PartitionError: the model cannot be traced.
    """
    return all_places(model, example)[:-1]


def all_places(model: nn.Module, example: Tensor, *, also: Collection[str] = ()) -> list[CutPoint]:
    """The same with the network's output, and with the nodes named in `also`, in the network's order.

    Raises:
        PartitionError: the model cannot be traced.
    """
    with without_leftovers(model):
        points = cut_points(trace(model), example)
    distinct = distinct_points(points)
    return [point for point in points if point in distinct or point.node_name in also]


def _cuts_for_training(
    traced: Traced,
    places: Sequence[CutPoint],
    example: Tensor,
    groups: int,
    balance_by: str,
    config: TrainConfig,
    critic_cost: Callable[[CutPoint, TrainConfig], int] | None,
) -> list[CutPoint]:
    """Those that balance what a step of training costs each group, with its critic."""
    segments = layer_groups(traced, places[:-1])
    if balance_by == "time":
        config = as_timed(config, saved_bytes(traced.root, example))
        upto = list(itertools.accumulate(segment_times_ns(segments, example, config)))
    else:
        parameters = itertools.accumulate(count_parameters(segment) for segment in segments)
        upto = [training_bytes(place.cost, count, config) for place, count in zip(places, parameters, strict=True)]
    summed = [place._replace(cost=cost) for place, cost in zip(places, upto, strict=True)]
    return balanced_cuts(summed, groups, end_cost=lambda cut: critic_cost(cut, config) if critic_cost else 0)


def _output_shape(parts: Sequence[nn.Module], example: Tensor) -> tuple[int, ...]:
    """Of the network, without the batch."""
    x = example[:1].detach()
    for part in parts:
        with evaluation_mode(part), torch.no_grad():
            x = part(x)
    return tuple(x.shape[1:])
