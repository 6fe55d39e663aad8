"""Look at a network's graph: its nodes, its output, and the modules that nodes belong to."""

from __future__ import annotations

from typing import Any

from torch import fx


def nodes_of(graph: fx.Graph) -> list[fx.Node]:
    """List all nodes but the output."""
    return [node for node in graph.nodes if node.op != "output"]


def owners(node: fx.Node) -> list[str]:
    """Name the modules that a node belongs to, outermost first."""
    return [path.split("@")[0] for path in node.meta.get("nn_module_stack", {})]


def output_of(graph: fx.Graph) -> Any:
    """Return the graph's output: a node, or several in a tuple or another container."""
    output: Any = next(iter(reversed(graph.nodes))).args[0]
    if isinstance(output, fx.Node) and isinstance(output.target, type) and issubclass(output.target, tuple):
        return output.args  # a named tuple that the network makes
    return output
