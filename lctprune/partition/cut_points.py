"""The cut points of a network, with the costs up to each."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lctprune.partition.exported.remade import can_follow, is_remade
from lctprune.partition.node_costs import NodeRun, count_node_flops, run_nodes
from lctprune.partition.symbolic.graphs import nodes_of, output_of, owners
from lctprune.partition.symbolic.tracing import Traced

_FEATURES_LAST = (nn.LayerNorm, nn.Linear, nn.RNNBase, nn.MultiheadAttention, nn.Embedding)
_FEATURES_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_NORMALIZING_LAST = (functional.layer_norm, torch.layer_norm, functional.linear)
_NORMALIZING_FIRST = (functional.batch_norm, torch.batch_norm, functional.group_norm, torch.group_norm, torch.conv2d)
_MOVING = {"permute", "transpose", "flatten", "reshape", "view", "movedim"}


@dataclass(frozen=True)
class CutPoint:
    """A node of a network's graph after which the network can be cut."""

    name: str  # of the outermost module that ends there, e.g. "layer2", or of the node
    node_name: str
    node: int  # its position in the graph of evaluation
    shape: tuple[int, ...]  # of the tensor there, without the batch
    channels_last: bool  # whether its last dimension is that of the features


@dataclass(frozen=True)
class MeasuredCutPoint(CutPoint):
    """A cut point, with the FLOPs for one sample of everything up to and including its node."""

    flops: int  # of the operations whose FLOP formula is known
    unknown: tuple[str, ...]  # names of the other operations, once per call


def find_cut_points(traced: Traced, example: Tensor) -> list[CutPoint]:
    """Find every node after which one tensor and nothing else is alive, and the network's output as the last one.

    No parameter is used on both sides of a cut point, as groups are trained apart.
    """
    return _cut_points(traced, run_nodes(traced.root, traced.evaluation, example))


def measure_cut_points(traced: Traced, example: Tensor) -> list[MeasuredCutPoint]:
    """Find the same cut points as `find_cut_points`, and count the FLOPs up to each."""
    runs = count_node_flops(traced.root, traced.evaluation, example)
    flops = list(itertools.accumulate(run.measured.known for run in runs))
    unknown = list(itertools.accumulate(run.measured.unknown for run in runs))
    return [
        MeasuredCutPoint(**vars(point), flops=flops[point.node], unknown=unknown[point.node])
        for point in _cut_points(traced, runs)
    ]


def distinct_cut_points(points: Sequence[MeasuredCutPoint]) -> list[MeasuredCutPoint]:
    """Keep the last of all cut points with equal FLOPs up to them; prefer feature maps and sequences to vectors.

    So a group ends with the normalisation and activation that belong to its convolution, and a pooled vector does not
    count where a feature map can be had. An operation whose FLOPs are not known separates cut points like any other.
    """
    distinct: dict[tuple[int, int], MeasuredCutPoint] = {}
    for point in points:
        before = (point.flops, len(point.unknown))
        known = distinct.get(before)
        if known is None or len(known.shape) == 1 or len(point.shape) > 1 or point is points[-1]:
            distinct[before] = point
    return [point for before, point in distinct.items() if any(before)]


def torn_parameters(traced: Traced) -> dict[int, str]:
    """Map positions in the graph of evaluation to a parameter or persistent buffer that is used on both sides."""
    nodes = nodes_of(traced.evaluation)
    names = {id(tensor): name for name, tensor in traced.root.state_dict(keep_vars=True).items()}
    uses: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for held in _held(traced.root, node) & names.keys():
            uses.setdefault(held, []).append(index)
    return {position: names[held] for held, indices in uses.items() for position in range(indices[0], indices[-1])}


def _cut_points(traced: Traced, runs: Sequence[NodeRun[Any]]) -> list[CutPoint]:
    nodes = nodes_of(traced.evaluation)
    alone, alone_in_training = _alone_alive(traced.evaluation), _alone_alive(traced.training)
    torn = torn_parameters(traced)
    output = nodes.index(output_of(traced.evaluation))
    points = []
    for index, (node, run) in enumerate(zip(nodes[: output + 1], runs, strict=False)):
        is_alone = node in alone and traced.counterparts.get(node) in alone_in_training
        is_usable = run.is_batch and not run.is_overwritten and index not in torn
        if index == output or (index > 0 and is_alone and is_usable):
            channels_last = _is_channels_last(traced.root, nodes, index, run.shape)
            points.append(CutPoint(_outermost_ending(nodes, index), node.name, index, run.shape, channels_last))
    return points


def _alone_alive(graph: fx.Graph) -> set[fx.Node]:
    """Find the nodes whose value is the only one of all made so far that later nodes still need."""
    nodes = nodes_of(graph)
    position = {node: index for index, node in enumerate(nodes)}
    users = [[user for user in node.users if not is_remade(user)] for node in nodes]
    last_use = [max((position.get(user, len(nodes)) for user in each), default=0) for each in users]
    alone = set()
    furthest = 0  # the last use of what was made before this node
    for index, node in enumerate(nodes):
        if is_remade(node):
            continue
        if furthest <= index < last_use[index] and can_follow(node, nodes):
            alone.add(node)
        furthest = max(furthest, last_use[index])
    return alone


def _held(root: nn.Module, node: fx.Node) -> set[int]:
    """Return the identities of the network's own tensors that a node uses."""
    if node.op == "call_module":
        return {id(tensor) for tensor in root.get_submodule(str(node.target)).state_dict(keep_vars=True).values()}
    return {id(operator.attrgetter(str(node.target))(root))} if node.op == "get_attr" else set()


def _is_channels_last(root: nn.Module, nodes: Sequence[fx.Node], index: int, shape: Sequence[int]) -> bool:
    """Decide by the nearest layers whether a node's tensor has its features last; else as is usual for its shape."""
    for neighbours in (nodes[index + 1 :], nodes[index::-1]):
        for node in neighbours:
            layer = root.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(layer, _FEATURES_LAST) or node.target in _NORMALIZING_LAST:
                return True
            if isinstance(layer, _FEATURES_FIRST) or node.target in _NORMALIZING_FIRST:
                return False
            if getattr(node.target, "__name__", node.target) in _MOVING or isinstance(layer, nn.Flatten):
                break
    return len(shape) < 3


def _outermost_ending(nodes: Sequence[fx.Node], index: int) -> str:
    following = owners(nodes[index + 1]) if index + 1 < len(nodes) else []
    return next((name for name in owners(nodes[index]) if name not in following), nodes[index].name)
