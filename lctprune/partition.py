"""Cut a traceable network into layer groups, and give each group but the last a critic.

The network is traced with torch.fx. A cut may fall after any node behind which exactly one tensor is alive: then a
group takes one tensor and gives one. Cuts are placed so that the groups' FLOPs balance, or where names say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from lctprune.balancing import balance
from lctprune.costs import counting_flops, evaluation_mode
from lctprune.critics import make_critic
from lctprune.errors import ConfigError, NetworkError, PartitionError
from lctprune.network import LocalCriticNetwork


class CutPoint(NamedTuple):
    """A place where a network can be cut: behind one node of its graph."""

    name: str  # of the outermost module that ends there, e.g. "layer2"
    node: int  # its position in the graph
    flops: int  # of everything up to and including the node, for one sample


def attach_critics(
    model: nn.Module,
    example: Tensor,
    *,
    num_outputs: int,
    groups: int = 4,
    critic: str = "tail",
    critic_depth: Sequence[int] | None = None,
    split_at: Sequence[str] | None = None,
) -> LocalCriticNetwork:
    """Cut a model into layer groups and attach a new critic to each but the last.

    Args:
        model: a network that torch.fx can trace, from one tensor to one tensor. The groups use its own parameters.
        example: an input, [batch, ...]; its values do not matter.
        num_outputs: width of the model's output, and so of every critic's.
        groups: how many layer groups; cuts balance their FLOPs.
        critic: kind of critic: `tail`, `pooled` or `paper`.
        critic_depth: convolutions of each critic (`paper` and `pooled`), or one number for all.
        split_at: names of modules, such as "layer2"; a group ends after each. In place of `groups`.

    Raises:
        PartitionError: the model cannot be traced or cut as asked.
        ConfigError: a setting does not fit the number of groups, or is unknown.
    """
    parts = partition(model, example, groups=groups, split_at=split_at)
    count = len(parts) - 1
    depths: list[int | None] = [None] * count
    if critic_depth is not None:
        if len(critic_depth) not in (1, count):
            raise ConfigError(f"critic depth has {len(critic_depth)} numbers; give 1, or {count}, one a critic")
        depths = [*critic_depth] * (count if len(critic_depth) == 1 else 1)
    shapes = _output_shapes(parts, example)
    if shapes[-1] != (num_outputs,):
        raise NetworkError(f"the model gives outputs of shape {list(shapes[-1])} a sample, not [{num_outputs}]")
    critics = [
        make_critic(critic, shape, num_outputs, depth=depth) for shape, depth in zip(shapes[:-1], depths, strict=True)
    ]
    return LocalCriticNetwork(parts, critics)


def partition(
    model: nn.Module, example: Tensor, *, groups: int = 4, split_at: Sequence[str] | None = None
) -> list[nn.Module]:
    """Cut a model into groups; run one after the other they compute what the model computes, on its own parameters.

    Arguments and errors are those of `attach_critics`. The groups keep the names of the model's parameters.
    """
    if groups < 1:
        raise ConfigError(f"groups is {groups}; it must be at least 1")
    if groups == 1 and not split_at:
        return [model]
    traced = _trace(model)
    points = cut_points(traced, example)
    cuts = named_cuts(traced, points, split_at) if split_at else balanced_cuts(points, groups)
    edges = [0, *(cut.node for cut in cuts), points[-1].node]
    parts: list[nn.Module] = [_extract(traced, start, end) for start, end in itertools.pairwise(edges)]
    _refuse_shared_parameters(parts)
    return parts


def cut_points(traced: fx.GraphModule, example: Tensor) -> list[CutPoint]:
    """Every place behind which one feature map, and nothing else, is alive; the last point is the network's output."""
    recorder = _Recorder(traced)
    with evaluation_mode(traced), torch.no_grad():
        recorder.run(example[:1].detach())
    nodes = _nodes(traced)
    position = {node: index for index, node in enumerate(nodes)}
    last_use = [max((position.get(user, len(nodes)) for user in node.users), default=0) for node in nodes]
    points: list[CutPoint] = []
    furthest = flops = 0  # furthest: the last use of what was made before this node
    for index, node in enumerate(nodes):
        flops += recorder.flops[node]
        is_cuttable = recorder.is_feature_map[node] or index == len(nodes) - 1
        if index > 0 and furthest <= index < last_use[index] and is_cuttable:
            points.append(CutPoint(_outermost_ending(nodes, index), index, flops))
        furthest = max(furthest, last_use[index])
    (output,) = next(iter(reversed(traced.graph.nodes))).args
    if not points or points[-1].node != len(nodes) - 1 or output is not nodes[-1]:
        raise PartitionError("the model does not give one tensor; give the groups by hand to LocalCriticNetwork")
    return points


def balanced_cuts(points: Sequence[CutPoint], groups: int) -> list[CutPoint]:
    """The cuts for which the most expensive group is cheapest.

    Where several places cost the same, the last one counts: a group ends with the normalisation and activation that
    belong to its convolution.

    Raises:
        PartitionError: there are fewer places to cut than groups need.
    """
    places = _distinct(points)
    if len(places) < groups:
        names = ", ".join(point.name for point in places[:-1]) or "none"
        raise PartitionError(
            f"{groups} groups need {groups - 1} cuts, but the model has {len(places) - 1} places to cut ({names}); "
            "ask for fewer groups"
        )
    return [places[place] for place in balance([point.flops for point in places], groups)]


def cut_places(model: nn.Module, example: Tensor) -> list[CutPoint]:
    """The places where `partition` would cut a model by itself.

    Raises:
        PartitionError: the model cannot be traced.
    """
    return _distinct(cut_points(_trace(model), example))[:-1]


def named_cuts(traced: fx.GraphModule, points: Sequence[CutPoint], names: Sequence[str]) -> list[CutPoint]:
    """The cuts behind the last node of each named module.

    Raises:
        PartitionError: a module does not exist, the network cannot be cut behind it, or the names are out of order.
    """
    by_node = {point.node: point for point in points[:-1]}
    nodes = _nodes(traced)
    available = dict.fromkeys(point.name for point in points[:-1] if point.name in _owners(nodes[point.node]))
    cuts = []
    for name in names:
        inside = [index for index, node in enumerate(nodes) if name in _owners(node)]
        if not inside or inside[-1] not in by_node:
            problem = "is not in the model" if not inside else "is not a place where the model can be cut"
            raise PartitionError(f"split point {name!r} {problem}; possible are {', '.join(available)}")
        cuts.append(by_node[inside[-1]])
    if any(left.node >= right.node for left, right in itertools.pairwise(cuts)):
        raise PartitionError(f"split points {', '.join(names)} must be different and in the network's order")
    return cuts


class _Recorder(fx.Interpreter):
    """Runs a traced network node by node and notes what each costs and gives."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.flops: dict[fx.Node, int] = {}
        self.is_feature_map: dict[fx.Node, bool] = {}

    def run_node(self, n: fx.Node) -> Any:
        with counting_flops() as flops:
            value = super().run_node(n)
        self.flops[n] = flops()
        self.is_feature_map[n] = isinstance(value, Tensor) and value.dim() == 4
        return value


def _distinct(points: Sequence[CutPoint]) -> list[CutPoint]:
    """Of the points up to which the cost is the same, the last."""
    return [point for point in {point.flops: point for point in points}.values() if point.flops > 0]


def _trace(model: nn.Module) -> fx.GraphModule:
    try:
        with evaluation_mode(model):  # puts every module's own mode back
            graphs = [fx.Tracer().trace(model.train(mode)) for mode in (False, True)]
    except Exception as error:  # fx raises whatever the model's own code raises on a proxy
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PartitionError(
            f"{type(model).__name__} cannot be traced ({reason}); give the groups by hand to LocalCriticNetwork"
        ) from error
    if str(graphs[0]) != str(graphs[1]):
        raise PartitionError(
            f"{type(model).__name__} does other things in training than in evaluation, outside its modules "
            "(a functional dropout?); use nn.Dropout, or give the groups by hand to LocalCriticNetwork"
        )
    if sum(node.op == "placeholder" for node in graphs[0].nodes) != 1:
        raise PartitionError(
            f"{type(model).__name__} takes several inputs; give the groups by hand to LocalCriticNetwork"
        )
    return fx.GraphModule(model, graphs[0])


def _nodes(traced: fx.GraphModule) -> list[fx.Node]:
    return [node for node in traced.graph.nodes if node.op != "output"]


def _extract(traced: fx.GraphModule, start: int, end: int) -> fx.GraphModule:
    """The nodes behind `start` up to and including `end`, as a module of one input."""
    nodes = _nodes(traced)
    graph = fx.Graph()
    copies = {nodes[start]: graph.placeholder("x")}
    for node in nodes[start + 1 : end + 1]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[nodes[end]])
    return fx.GraphModule(traced, graph, class_name="Group")


def _owners(node: fx.Node) -> list[str]:
    """Names of the modules that a node belongs to, outermost first."""
    return [path.split("@")[0] for path in node.meta.get("nn_module_stack", {})]


def _outermost_ending(nodes: Sequence[fx.Node], index: int) -> str:
    following = _owners(nodes[index + 1]) if index + 1 < len(nodes) else []
    return next((name for name in _owners(nodes[index]) if name not in following), nodes[index].name)


def _refuse_shared_parameters(parts: Sequence[nn.Module]) -> None:
    seen: dict[int, str] = {}
    for part in parts:
        names = {id(parameter): name for name, parameter in part.named_parameters()}
        for shared in names.keys() & seen.keys():
            raise PartitionError(
                f"the parameter {names[shared]} is used on both sides of a cut; cut elsewhere with split_at"
            )
        seen |= names


def _output_shapes(parts: Sequence[nn.Module], example: Tensor) -> list[tuple[int, ...]]:
    """Shape of each group's output, without the batch."""
    shapes = []
    x = example[:1].detach()
    with torch.no_grad():
        for part in parts:
            with evaluation_mode(part):
                x = part(x)
            shapes.append(tuple(x.shape[1:]))
    return shapes
