"""The places where a network can be cut, and which of them to take."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, fx, nn
from torch.nn import functional

from lctprune.errors import PartitionError
from lctprune.partition.balancing import balance
from lctprune.partition.node_costs import NodeCost, node_costs
from lctprune.partition.tracing import BY_HAND, Traced, nodes_of, output_of, owners

BALANCES = ("flops", "time", "memory")
_FEATURES_LAST = (nn.LayerNorm, nn.Linear, nn.RNNBase, nn.MultiheadAttention, nn.Embedding)
_FEATURES_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_MOVING = {"permute", "transpose", "flatten", "reshape", "view", "movedim"}


class CutPoint(NamedTuple):
    """A place where a network can be cut: behind one node of its graph."""

    name: str  # of the outermost module that ends there, e.g. "layer2", or of the node
    node_name: str
    node: int  # its position in the graph of evaluation
    flops: int  # of everything up to and including the node, for one sample
    cost: int  # what is to be balanced, of everything up to and including the node
    shape: tuple[int, ...]  # of the tensor there, without the batch
    channels_last: bool  # its last dimension is that of the features


def cut_points(traced: Traced, example: Tensor, *, balance_by: str = "flops") -> list[CutPoint]:
    """Every place behind which one tensor, and nothing else, is alive, and no parameter is used both before and after
    it, as groups are trained apart; the last point is the network's output.

    Raises:
        UnknownOperationError: an operation of the network has no FLOP formula.
    """
    nodes = nodes_of(traced.evaluation)
    costs = node_costs(traced.root, traced.evaluation, example)
    flops = list(itertools.accumulate(cost.flops for cost in costs))
    balanced = list(itertools.accumulate(_balanced_cost(cost, balance_by) for cost in costs))
    alone, alone_in_training = _alone_alive(traced.evaluation), _alone_alive(traced.training)
    torn = _torn(traced)
    output = nodes.index(output_of(traced.evaluation))
    points = []
    for index, (node, cost) in enumerate(zip(nodes[: output + 1], costs, strict=False)):
        is_inside = node in alone and traced.counterparts.get(node) in alone_in_training
        is_batch = cost.shape is not None and not cost.is_overwritten
        if index == output or (index > 0 and is_inside and is_batch and index not in torn):
            name = _outermost_ending(nodes, index)
            channels_last = _is_channels_last(traced.root, nodes, index, cost.shape or ())
            points.append(
                CutPoint(name, node.name, index, flops[index], balanced[index], cost.shape or (), channels_last)
            )
    return points


def balanced_cuts(
    places: Sequence[CutPoint], groups: int, *, end_cost: Callable[[CutPoint], int] | None = None
) -> list[CutPoint]:
    """The cuts for which the most expensive group is cheapest, with what a critic behind it costs by `end_cost`.

    Args:
        places: see `distinct_points`.
        groups: how many.
        end_cost: what a group that ends at a place costs beside.

    Raises:
        PartitionError: there are fewer places to cut than groups need.
    """
    if len(places) < min(2, groups):
        raise PartitionError(
            "the model has no place to cut, where one tensor alone is alive and no parameter is used on both sides; "
            f"{BY_HAND}"
        )
    if len(places) < groups:
        names = ", ".join(point.name for point in places[:-1])
        raise PartitionError(
            f"{groups} groups need {groups - 1} cuts, but the model has {len(places) - 1} places to cut ({names}); "
            f"ask for fewer groups, or {BY_HAND}"
        )
    end_costs = [end_cost(point) for point in places[:-1]] + [0] if end_cost else None
    return [places[place] for place in balance([point.cost for point in places], groups, end_costs)]


def named_cuts(traced: Traced, points: Sequence[CutPoint], names: Sequence[str]) -> list[CutPoint]:
    """The cuts behind each named node, or behind the last node of each named module.

    Raises:
        PartitionError: a module does not exist, the network cannot be cut behind it, or the names are out of order.
    """
    by_node = {point.node: point for point in points[:-1]}
    by_name = {point.node_name: point for point in points[:-1]}
    nodes = nodes_of(traced.evaluation)
    available = dict.fromkeys(point.name for point in points[:-1])
    cuts = []
    for name in names:
        if name in by_name:
            cuts.append(by_name[name])
            continue
        inside = [index for index, node in enumerate(nodes) if name in owners(node)]
        if not inside or inside[-1] not in by_node:
            problem = "is not in the model" if not inside else "is not a place where the model can be cut"
            if inside and inside[-1] in (torn := _torn(traced)):
                problem += f": the parameter {torn[inside[-1]]} is used on both sides"
            raise PartitionError(f"split point {name!r} {problem}; possible are {', '.join(available) or 'none'}")
        cuts.append(by_node[inside[-1]])
    if any(left.node > right.node for left, right in itertools.pairwise(cuts)):
        raise PartitionError(f"split points {', '.join(names)} must be in the network's order")
    return cuts


def _balanced_cost(cost: NodeCost, balance_by: str) -> int:
    return cost.memory_bytes if balance_by == "memory" else cost.flops


def _alone_alive(graph: fx.Graph) -> set[fx.Node]:
    """Nodes behind which nothing that was made before is still needed, but what they give."""
    nodes = nodes_of(graph)
    position = {node: index for index, node in enumerate(nodes)}
    last_use = [max((position.get(user, len(nodes)) for user in node.users), default=0) for node in nodes]
    alone = set()
    furthest = 0  # the last use of what was made before this node
    for index, node in enumerate(nodes):
        if furthest <= index < last_use[index]:
            alone.add(node)
        furthest = max(furthest, last_use[index])
    return alone


def _torn(traced: Traced) -> dict[int, str]:
    """Positions in the graph of evaluation that have a parameter or persistent buffer on both sides: its name."""
    nodes = nodes_of(traced.evaluation)
    names = {id(tensor): name for name, tensor in traced.root.state_dict(keep_vars=True).items()}
    uses: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for held in _held(traced.root, node) & names.keys():
            uses.setdefault(held, []).append(index)
    return {place: names[held] for held, indices in uses.items() for place in range(indices[0], indices[-1])}


def _held(root: nn.Module, node: fx.Node) -> set[int]:
    """Identities of what a node takes from the network's own tensors."""
    if node.op == "call_module":
        return {id(tensor) for tensor in root.get_submodule(str(node.target)).state_dict(keep_vars=True).values()}
    return {id(operator.attrgetter(str(node.target))(root))} if node.op == "get_attr" else set()


def distinct_points(points: Sequence[CutPoint]) -> list[CutPoint]:
    """Of the points up to which the FLOPs are the same, the last, or the last that is not a vector.

    So a group ends with the normalisation and activation that belong to its convolution, and a pooled vector does not
    count where a feature map is to be had.
    """
    distinct: dict[int, CutPoint] = {}
    for point in points:
        known = distinct.get(point.flops)
        if known is None or len(known.shape) == 1 or len(point.shape) > 1 or point is points[-1]:
            distinct[point.flops] = point
    return [point for point in distinct.values() if point.flops > 0]


def _is_channels_last(root: nn.Module, nodes: Sequence[fx.Node], index: int, shape: Sequence[int]) -> bool:
    """Whether the tensor behind a node has its features last, by the layers next to it; else as is usual."""
    for neighbours in (nodes[index + 1 :], nodes[index::-1]):
        for node in neighbours:
            layer = root.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(layer, _FEATURES_LAST) or node.target in (functional.layer_norm, functional.linear):
                return True
            if isinstance(layer, _FEATURES_FIRST) or node.target in (functional.batch_norm, functional.group_norm):
                return False
            if getattr(node.target, "__name__", node.target) in _MOVING or isinstance(layer, nn.Flatten):
                break
    return len(shape) < 3


def _outermost_ending(nodes: Sequence[fx.Node], index: int) -> str:
    following = owners(nodes[index + 1]) if index + 1 < len(nodes) else []
    return next((name for name in owners(nodes[index]) if name not in following), nodes[index].name)
