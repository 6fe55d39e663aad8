"""Attach critics to a plain network: cut it into layer groups, and give each group but the last a critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from lctprune.config.training import ResolvedTrainConfig, TrainConfig
from lctprune.critics import make_critic
from lctprune.errors import ConfigError, NetworkError
from lctprune.measure.costs import count_parameters, on_few_samples, saved_bytes
from lctprune.measure.step_costs import critic_time_ns, training_bytes
from lctprune.network import LocalCriticNetwork
from lctprune.partition.choosing import Balance
from lctprune.partition.critic_sizes import (
    AUTO,
    CriticSize,
    fitted_sizes,
    usual_kind,
)
from lctprune.partition.cut_points import CutPoint
from lctprune.partition.cutting import partition_model
from lctprune.partition.plain_model import match_types, plain_model
from lctprune.partition.preserving.guarding import unchanged
from lctprune.partition.symbolic.tracing import Tracing
from lctprune.utils.modules import evaluation_mode

Pool = Literal["mean", "last"]
_T = TypeVar("_T")


def attach_critics(
    model: nn.Module,
    example: Tensor,
    *,
    num_outputs: int | None = None,
    groups: int = 4,
    critic: str | Sequence[str] = AUTO,
    critic_depth: Sequence[int] | None = None,
    critic_width: Sequence[float] | None = None,
    critic_pool: Pool = "mean",
    split_at: Sequence[str] | None = None,
    balance_by: Balance = "flops",
    training: TrainConfig | None = None,
    known: Sequence[str] | None = None,
) -> LocalCriticNetwork:
    """Cut a model into layer groups and attach a new critic to each but the last.

    Args:
        model: network that torch.fx can trace, from one tensor to one tensor; the groups hold its own parameters. What
            `torch.compile`, `DataParallel` and the like wrap is taken out of them; names are the plain model's.
        example: input, [batch, ...]; its values do not matter.
        num_outputs: width of the model's output, and so of every critic's; by default as the model gives it.
        groups: number of layer groups.
        critic: kind of critic (see `make_critic`), or one per critic. `auto` takes `depthwise` where most convolutions
            of the model are depthwise, else `tail`; and makes a critic smaller (first `width`, then kind) until its
            exit costs at most half of the way from its cut point to the next exit in FLOPs, and fewer parameters than
            the next exit. A depth or width that is given is kept. `network.notes` says which critics are smaller, and
            which exits nevertheless cost no less than the main network.
        critic_depth: depth of each critic of convolutions (see `make_critic`), or one number for all.
        critic_width: factor on the width of each critic, or one for all; by default 1, or as `auto` says.
        critic_pool: pooling over the steps by critics of sequences, `mean` or `last`.
        split_at: names of modules or nodes, such as "layer2", after each of which a group ends; replaces `groups`. A
            name that is given twice gets two critics, with an empty group between them.
        balance_by: cost that is balanced between the groups: `flops`, or the cost of a training step of a group and its
            critic: `time`, measured on this processor, or `memory` of activations, weights, gradients and momentum.
        training: training whose `time` or `memory` is balanced; by default one with default settings.
        known: how this model was traced before, `network.tracing`; then its groups are not compared with it again.

    Raises:
        NetworkError: the model does not run on the example, or its tensors are on several devices.
        PartitionError: the model cannot be traced or cut as asked, or is no plain network (TorchScript, quantised).
        ConfigError: a setting does not fit the number of groups, or is unknown.

    Warns:
        NetworkWarning: an auxiliary head of the model is left out; or an operation has no FLOP formula, so that the
            FLOPs of all others are balanced.
    """
    model, example = plain_model(model, example)
    if num_outputs is None:
        num_outputs = _output_width(model, example)
    count = len(split_at) if split_at else groups - 1
    kinds = _one_per_critic("kind", [critic] if isinstance(critic, str) else critic, count, AUTO, "names")
    depths = _one_per_critic("depth", critic_depth, count, None)
    widths = _one_per_critic("width", critic_width, count, 1.0)
    asked = [CriticSize(*each) for each in zip(kinds, depths, widths, strict=True)]
    make = partial(_new_critic, model=model, num_outputs=num_outputs, pool=critic_pool)
    typical = partial(make, size=asked[0] if asked else CriticSize(AUTO, None, 1.0))
    partition = partition_model(
        model,
        example,
        groups=groups,
        split_at=split_at,
        balance_by=balance_by,
        training=training,
        critic_cost=partial(_critic_cost, typical, balance_by),
        known=Tracing.of(known) if known else None,
    )
    if partition.output_shape != (num_outputs,):
        raise NetworkError(
            f"the model returns outputs of shape {list(partition.output_shape)} per sample, not [{num_outputs}]; "
            "num_outputs must be the width of the model's output"
        )
    sizes = [
        size._replace(kind=usual_kind(size.kind, model, cut.shape))
        for size, cut in zip(asked, partition.cuts, strict=True)
    ]
    notes: list[str] = []
    if isinstance(critic, str):  # else each critic was chosen before, and is made again
        may_change = critic == AUTO and critic_depth is None and critic_width is None
        with unchanged(model):  # costs are those of a run
            sizes, notes = fitted_sizes(partition, example, sizes, make, may_change=may_change)
    critics = [make(cut, size) for cut, size in zip(partition.cuts, sizes, strict=True)]
    with unchanged(model):
        match_types(critics, partition.groups, example)
    network = LocalCriticNetwork(partition.groups, critics)
    network.cuts = tuple(cut.node_name for cut in partition.cuts)
    network.cut_point_names = tuple(cut.name for cut in partition.cuts)
    network.critic_kinds, network.critic_widths = (
        tuple(size.kind for size in sizes),
        tuple(size.width for size in sizes),
    )
    network.notes = tuple(notes)
    network.tracing = partition.tracing.record
    return network


def _output_width(model: nn.Module, example: Tensor) -> int:
    """Run the model on as few samples as possible; 0 where it does not run, which cutting then explains."""
    with suppress(Exception), unchanged(model), evaluation_mode(model), torch.no_grad():
        return int(on_few_samples(model, example).shape[-1])
    return 0


def _one_per_critic(
    name: str, given: Sequence[_T] | None, count: int, default: _T, plural: str = "numbers"
) -> list[_T]:
    if given is None:
        return [default] * count
    if len(given) not in (1, count):
        raise ConfigError(f"critic {name} has {len(given)} {plural}; give 1, or {count}, one per critic")
    return [*given] * (count if len(given) == 1 else 1)


def _new_critic(cut: CutPoint, size: CriticSize, *, model: nn.Module, num_outputs: int, pool: Pool) -> nn.Module:
    return make_critic(
        usual_kind(size.kind, model, cut.shape),
        cut.shape,
        num_outputs,
        depth=size.depth,
        width=size.width,
        channels_last=cut.channels_last,
        pool=pool,
    )


def _critic_cost(
    new_critic: Callable[[CutPoint], nn.Module], balance_by: Balance, cut: CutPoint, config: ResolvedTrainConfig
) -> int:
    """Measure what a critic at a cut point costs a training step: bytes or nanoseconds; 0 where it cannot be made."""
    with torch.random.fork_rng(devices=[]), suppress(ConfigError):
        critic = new_critic(cut)
        if balance_by == "memory":
            activation_bytes = saved_bytes(critic, torch.zeros(1, *cut.shape))
            return training_bytes(activation_bytes, count_parameters(critic), config)
        return critic_time_ns(critic, cut.shape, config)
    return 0
