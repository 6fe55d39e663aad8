"""Divide a group into segments that follow one another, as finely as its graph allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, fx, nn

from lctprune.errors import LctpruneError
from lctprune.partition.layer_group import LayerGroup, layer_groups
from lctprune.partition.preserving.guarding import unchanged
from lctprune.partition.preserving.sections import graph_function
from lctprune.partition.symbolic.graphs import nodes_of, output_of
from lctprune.partition.symbolic.tracing import trace

Function = Callable[[Tensor], Tensor]


class Segment(NamedTuple):
    """A part of a group.

    Attributes:
        run: what it computes in training mode.
        parameters: parameters that it uses.
        buffers: buffers that it uses, each as a module and a name in it.
    """

    run: Function
    parameters: list[Tensor]
    buffers: list[tuple[nn.Module, str]]


def segments(group: nn.Module) -> list[Segment]:
    """Divide a group; one that is neither cut from a network nor traceable nor `nn.Sequential` is one segment.

    Args:
        group: group in training mode, which is left as it is; segments run its modules on its parameters.
    """
    if group._forward_hooks or group._forward_pre_hooks:
        return [whole(group)]
    if not (isinstance(group, LayerGroup) or _is_row(group)):
        try:
            with unchanged(group) as snapshot:
                (group,) = layer_groups(trace(group, snapshot=snapshot), [])
        except (LctpruneError, ValueError):
            return [whole(group)]
    if _is_row(group):
        return [each for child in group.children() for each in _of_child(child)]
    assert isinstance(group, LayerGroup)
    return _of_graph(group, group.training_graph)


def whole(module: nn.Module) -> Segment:
    """Return all of a module as one segment."""
    return Segment(module, [*module.parameters()], _buffers([module]))


def _buffers(modules: Sequence[nn.Module]) -> list[tuple[nn.Module, str]]:
    found = {
        (id(module), name): (module, name)
        for each in modules
        for module in each.modules()
        for name, _ in module.named_buffers(recurse=False)
    }
    return list(found.values())


def _of_child(child: nn.Module) -> list[Segment]:
    return segments(child) if isinstance(child, LayerGroup) or _is_row(child) else [whole(child)]


def _is_row(module: nn.Module) -> bool:
    """Tell whether a module does no more than run its children in a row."""
    is_plain = type(module).forward is nn.Sequential.forward and len(module._modules) == len(list(module.children()))
    return is_plain and len(module._modules) > 0 and not (module._forward_hooks or module._forward_pre_hooks)


def _of_graph(group: nn.Module, graph: fx.Graph) -> list[Segment]:
    nodes = [node for node in nodes_of(graph) if node.op != "placeholder"]
    if output_of(graph) not in nodes:  # the group computes nothing
        return [whole(group)]
    start, found, run = next(iter(graph.nodes)), [], []
    ends = _alone_alive(graph) | {nodes[-1]}
    for node in nodes:
        run.append(node)
        if node in ends:
            found.append(_segment(group, start, run, node if node is not nodes[-1] else output_of(graph)))
            start, run = node, []
    return found


def _alone_alive(graph: fx.Graph) -> set[fx.Node]:
    """Find the nodes whose value is all that later nodes need of what has been computed."""
    nodes = nodes_of(graph)
    position = {node: index for index, node in enumerate(graph.nodes)}
    alone, furthest = set(), 0
    for index, node in enumerate(nodes):
        last_use = max((position[user] for user in node.users), default=index)
        is_before_output = any(user.op != "output" for user in node.users)
        if node.op not in ("placeholder", "get_attr") and furthest <= index and is_before_output:
            alone.add(node)
        furthest = max(furthest, last_use)
    return alone


def _segment(group: nn.Module, start: fx.Node, nodes: list[fx.Node], end: fx.Node) -> Segment:
    graph = fx.Graph()
    copies = {start: graph.placeholder("x")}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[end])
    function = graph_function(graph)
    modules = [group.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"]
    names = [str(node.target).rpartition(".") for node in nodes if node.op == "get_attr"]
    held = list(dict.fromkeys((group.get_submodule(path), name) for path, _, name in names))
    parameters: list[Tensor] = [each for module in modules for each in module.parameters()]
    parameters += [each for module, name in held if (each := module._parameters.get(name)) is not None]
    return Segment(
        lambda x: function(group, x),
        parameters,
        _buffers(modules) + [(module, name) for module, name in held if module._buffers.get(name) is not None],
    )
