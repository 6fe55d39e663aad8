"""What each layer group makes anew: positions, masks of the padding, and all else that needs nothing but shapes.

The layers of a text encoder share a mask, and often rotary positions, so that more than one tensor crosses every cut.
These need not cross: a group computes them again, from the sizes of its input and from its padding. For that a group's
output is zero wherever the network's input was padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lctprune.partition.exported.operations import MUTATES, RANDOM
from lctprune.pooling import valid_steps

REMADE = "remade"  # mark of a node that a later group can compute; its value says from what
SIZE, MASK, DEVICE, OTHER = "size", "mask", "device", "other"


def mark_remade(graph: fx.Graph, padding_id: int | None) -> None:
    """Mark the nodes of a graph that need nothing of the input but its shape and its padding.

    Args:
        graph: graph of an exported network, whose nodes say what torch.export knows of their values.
        padding_id: token id of padding; by default the one number that the input is compared with, if it is one.
    """
    nodes = [node for node in graph.nodes if node.op != "output"]
    x = nodes[0]
    if padding_id is None:
        compared = {node.args[1] for node in x.users if node.target in (torch.ne, torch.eq)}
        padding_id = next(iter(compared)) if len(compared) == 1 else None
    for node in nodes[1:]:
        if node.args[:1] == (x,) and node.target is torch.eq and node.args[1] == padding_id:
            with graph.inserting_before(node):
                valid = graph.call_function(torch.ne, node.args)
            valid.meta.update(node.meta)
            node.target, node.args = torch.logical_not, (valid,)
    last = x
    for node in [*graph.nodes]:
        if (kind := _kind(node, x, padding_id)) is not None:
            node.meta[REMADE] = kind
            if kind != OTHER:  # before any cut
                last.append(node)
                last = node
    _forget_what_is_overwritten(graph)


def _kind(node: fx.Node, x: fx.Node, padding_id: object) -> str | None:
    if node.args[:1] == (x,) and node.op == "call_method" and node.target == "size":
        return SIZE
    if node.args[:1] == (x,) and node.target is getattr:
        return DEVICE
    if node.target is torch.ne and node.args == (x, padding_id) and not _value(x).is_floating_point():
        return MASK
    if node.op == "get_attr":
        return OTHER
    is_function = node.op in ("call_function", "call_method") and not node.meta.get(RANDOM)
    return OTHER if is_function and all(REMADE in each.meta for each in node.all_input_nodes) else None


def _forget_what_is_overwritten(graph: fx.Graph) -> None:
    """Remove the mark from what an operation changes in place, and from all that is made from it."""
    spoilt: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in spoilt or node.meta.get(MUTATES):
            spoilt |= {node, *(each for each in node.all_input_nodes if each.meta.get(REMADE) == OTHER)}
    for node in graph.nodes:
        if node in spoilt or (node.meta.get(REMADE) == OTHER and not spoilt.isdisjoint(node.all_input_nodes)):
            spoilt.add(node)
            node.meta.pop(REMADE, None)


def is_remade(node: fx.Node) -> bool:
    """Tell whether a later group computes a node again, so that its value need not cross a cut."""
    return REMADE in node.meta


def can_follow(node: fx.Node, nodes: Sequence[fx.Node]) -> bool:
    """Tell whether all that is remade after a cut at `node` can be computed from its value.

    Args:
        node: node of the cut.
        nodes: all nodes of its graph, in order.
    """
    sources = [_source(each, node) for each in _remade_after(node, nodes) if each.meta[REMADE] != OTHER]
    return None not in sources


def _remade_after(node: fx.Node, nodes: Sequence[fx.Node]) -> list[fx.Node]:
    later = nodes[nodes.index(node) + 1 :]
    return _needed([used for each in later for used in each.all_input_nodes], nodes, node)


def _needed(used: Iterable[fx.Node], nodes: Sequence[fx.Node], start: fx.Node) -> list[fx.Node]:
    """List the nodes up to `start` that must be remade for the values of the nodes `used`, in order."""
    position = {node: index for index, node in enumerate(nodes)}
    found: set[fx.Node] = set()
    waiting = [*used]
    while waiting:
        node = waiting.pop()
        if node not in found and node is not start and is_remade(node) and position[node] <= position[start]:
            found.add(node)
            if node.meta[REMADE] == OTHER:
                waiting += node.all_input_nodes
    return sorted(found, key=position.__getitem__)


def remake(
    graph: fx.Graph, used: Iterable[fx.Node], nodes: Sequence[fx.Node], start: fx.Node, copies: dict[fx.Node, Any]
) -> None:
    """Add to a group's graph what it computes again of the nodes before it.

    Args:
        graph: graph of the group, which has its input.
        used: nodes of the network's graph whose values the group uses.
        nodes: all nodes of the network's graph, in order.
        start: node whose value is the group's input.
        copies: map from the network's nodes to the group's; what is remade is added.
    """
    for node in _needed(used, nodes, start):
        source = None if node.meta[REMADE] == OTHER else _source(node, start)
        if source is None:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        else:
            copies[node] = graph.create_node(source[0], source[1], (copies[start], *source[2]))


def padding_mask(end: fx.Node, nodes: Sequence[fx.Node]) -> fx.Node | None:
    """Return the mask that is remade after a cut at `end`, so that the value there must be zero at padding."""
    return next((node for node in _remade_after(end, nodes) if node.meta[REMADE] == MASK), None)


def without_padding(x: Tensor, valid: Tensor) -> Tensor:
    """Set the steps of a sequence that are padding to zero.

    Args:
        x: sequences, [batch, steps, features].
        valid: mask of the steps that are not padding, [batch, steps].
    """
    return x.masked_fill(~valid[..., None], 0)


def valid_mask(x: Tensor) -> Tensor:
    """Tell which steps are not padding: [batch, steps, features] -> bool [batch, steps]."""
    return valid_steps(x)[..., 0]


def _source(node: fx.Node, start: fx.Node) -> tuple[str, Any, tuple[Any, ...]] | None:
    """Return the kind, target and further arguments of the node that computes `node` from the value of `start`."""
    kind, shape = node.meta[REMADE], _shape(start)
    if kind == DEVICE:
        return "call_function", getattr, ("device",)
    if kind == SIZE:
        size = _text(node.meta.get("val"))
        dim = next((index for index, length in enumerate(shape) if _text(length) == size), None)
        return None if dim is None else ("call_method", "size", (dim,))
    fits = len(shape) == 3 and [*map(_text, shape[:2])] == [*map(_text, _shape(node))]
    return ("call_function", valid_mask, ()) if fits and _value(start).is_floating_point() else None


def _value(node: fx.Node) -> Any:
    return node.meta["val"]


def _shape(node: fx.Node) -> tuple[Any, ...]:
    return tuple(getattr(node.meta.get("val"), "shape", ()))


def _text(length: Any) -> str:
    return str(length)
