"""Choose cut points: the named ones, or those for which a cost of the groups balances."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from torch import Tensor

from lctprune.config.training import ResolvedTrainConfig
from lctprune.errors import CutPointError, PartitionError
from lctprune.measure.costs import FlopCount, count_parameters, saved_bytes, warn_of_unknown_operations
from lctprune.measure.step_costs import as_timed, segment_times_ns, training_bytes
from lctprune.partition.balancing import balance
from lctprune.partition.cut_points import CutPoint, MeasuredCutPoint, distinct_cut_points, torn_parameters
from lctprune.partition.layer_group import layer_groups
from lctprune.partition.node_costs import count_node_memory
from lctprune.partition.symbolic.tracing import BY_HAND, Traced, nodes_of, owners

Balance = Literal["flops", "time", "memory"]
BALANCES: tuple[Balance, ...] = get_args(Balance)


def named_cut_points(traced: Traced, points: Sequence[CutPoint], names: Sequence[str]) -> list[CutPoint]:
    """Take the cut point at each named node, or at the last node of each named module.

    Args:
        traced: network.
        points: all its cut points, the output last.
        names: names of nodes or modules, in the network's order.

    Raises:
        PartitionError: a name is unknown or belongs to no cut point, or the names are out of order.
    """
    by_position = {point.node: point for point in points[:-1]}
    by_node_name = {point.node_name: point for point in points[:-1]}
    nodes = nodes_of(traced.evaluation)
    cuts = []
    for name in names:
        inside = [index for index, node in enumerate(nodes) if name in owners(node)]
        point = by_node_name.get(name) or by_position.get(inside[-1] if inside else -1)
        if point is None:
            problem = _why_no_cut_point(traced, name, inside)
            possible = ", ".join(dict.fromkeys(point.name for point in points[:-1])) or "none"
            raise CutPointError(f"cannot cut at {name!r}, which {problem}; possible cut points are {possible}")
        cuts.append(point)
    if any(left.node > right.node for left, right in itertools.pairwise(cuts)):
        raise CutPointError(f"cut points {', '.join(names)} must be in the network's order")
    return cuts


def _why_no_cut_point(traced: Traced, name: str, inside: Sequence[int]) -> str:
    """Say why there is no cut point after the nodes at the positions `inside`, which a module consists of."""
    whole = next((path for path in traced.whole if name.startswith(f"{path}.")), None)
    if whole is not None:
        return f"is inside {whole}, which is kept whole ({traced.whole[whole]})"
    if not inside:
        return "is not in the model"
    torn = torn_parameters(traced).get(inside[-1])
    why = "" if torn is None else f": the parameter {torn} is used on both sides"
    return f"is not a cut point of the model{why}"


def flop_balanced_cut_points(points: Sequence[MeasuredCutPoint], groups: int) -> list[CutPoint]:
    """Take the cut points for which the group with the most FLOPs has as few as possible.

    Args:
        points: all cut points of a network, the output last.
        groups: number of groups.

    Raises:
        PartitionError: there are fewer cut points than groups need.

    Warns:
        NetworkWarning: an operation has no FLOP formula, so that the FLOPs of all others are balanced.
    """
    distinct = distinct_cut_points(points)
    _require_enough(distinct, groups)
    warn_of_unknown_operations(
        [FlopCount(points[-1].flops, points[-1].unknown)],
        "the groups balance the FLOPs of the other operations only; balance time or memory, or name cut points",
    )
    return [distinct[index] for index in balance([point.flops for point in distinct], groups)]


def training_balanced_cut_points(
    traced: Traced,
    points: Sequence[MeasuredCutPoint],
    groups: int,
    *,
    balance_by: Balance,
    example: Tensor,
    config: ResolvedTrainConfig,
    critic_cost: Callable[[CutPoint, ResolvedTrainConfig], int],
) -> list[CutPoint]:
    """Take the cut points for which the group that costs a training step most, with its critic, is cheapest.

    Args:
        traced: network.
        points: all its cut points, the output last.
        groups: number of groups.
        balance_by: the cost that is balanced, "time" or "memory".
        example: input, [batch, ...].
        config: resolved training to which the step belongs.
        critic_cost: function that returns the cost of a critic at a cut point.

    Raises:
        PartitionError: there are fewer cut points than groups need.
    """
    distinct = distinct_cut_points(points)
    _require_enough(distinct, groups)
    measure = _memory_costs if balance_by == "memory" else _time_costs
    end_costs = [*(critic_cost(point, config) for point in distinct[:-1]), 0]
    return [distinct[index] for index in balance(measure(traced, distinct, example, config), groups, end_costs)]


def _require_enough(points: Sequence[CutPoint], groups: int) -> None:
    if len(points) < min(2, groups):
        raise PartitionError(
            "the model has no cut point: no two consecutive parts pass exactly one tensor and share no parameter; "
            f"{BY_HAND}"
        )
    if len(points) < groups:
        names = ", ".join(point.name for point in points[:-1])
        raise CutPointError(
            f"{groups} groups need {groups - 1} cut points, but the model has {len(points) - 1} ({names}); "
            f"ask for at most `groups={len(points)}`"
        )


def _time_costs(traced: Traced, points: Sequence[CutPoint], example: Tensor, config: ResolvedTrainConfig) -> list[int]:
    """Measure the nanoseconds that a step of training takes up to each cut point."""
    segments = layer_groups(traced, points[:-1])
    config = as_timed(config, saved_bytes(traced.root, example))
    return list(itertools.accumulate(segment_times_ns(segments, example, config)))


def _memory_costs(
    traced: Traced, points: Sequence[CutPoint], example: Tensor, config: ResolvedTrainConfig
) -> list[int]:
    """Count the bytes that training holds for everything up to each cut point."""
    segments = layer_groups(traced, points[:-1])
    parameters = itertools.accumulate(count_parameters(segment) for segment in segments)
    saved = list(itertools.accumulate(count_node_memory(traced.root, traced.evaluation, example)))
    return [training_bytes(saved[point.node], count, config) for point, count in zip(points, parameters, strict=True)]
