"""Compile a graph to a Python function, in sections where the network's code sets contexts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, fx, nn

from lctprune.partition.preserving.contexts import PLAIN, Context, context_of, entered


class _Section(NamedTuple):
    """Consecutive nodes of one context, as a function of values that have names; the last one returns the output."""

    context: Context
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dropped: tuple[str, ...]  # values that nothing needs afterwards


def graph_function(graph: fx.Graph) -> Callable[[nn.Module, Tensor], Tensor]:
    """Compile the graph to a Python function, as torch.fx does to run a graph; in sections where it has contexts."""
    if all(context_of(node) == PLAIN for node in graph.nodes):
        return cast(Callable[[nn.Module, Tensor], Tensor], _compiled(graph))
    x = next(iter(graph.nodes)).name
    *sections, last = _sections(graph)

    def run(self: nn.Module, given: Tensor) -> Tensor:
        values = {x: given}
        for context, function, inputs, outputs, dropped in sections:
            with entered(context):
                results = function(self, *[values[name] for name in inputs])
            values.update(zip(outputs, results, strict=True))
            for name in dropped:
                del values[name]
        with entered(last.context):
            return cast(Tensor, last.function(self, *[values[name] for name in last.inputs]))

    return run


def _compiled(graph: fx.Graph) -> Callable[..., Any]:
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(compile(code.src, f"<layer group of {len(graph.nodes)} nodes>", "exec"), namespace)
    return cast(Callable[..., Any], namespace["forward"])


def _sections(graph: fx.Graph) -> Iterator[_Section]:
    """Divide a graph into sections."""
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    output = next(iter(reversed(graph.nodes)))
    runs = [list(run) for _, run in itertools.groupby(nodes, key=context_of)]
    for index, run in enumerate(runs):
        own = set(run)
        later = {node for each in itertools.chain(*runs[index + 1 :], [output]) for node in each.all_input_nodes}
        is_last = index == len(runs) - 1
        users = [*run, output] if is_last else run
        inputs = list(dict.fromkeys(node for each in users for node in each.all_input_nodes if node not in own))
        outputs = [node for node in run if node in later]
        yield _Section(
            context_of(run[0]),
            _compiled(_section_graph(inputs, run, output.args[0] if is_last else tuple(outputs))),
            tuple(node.name for node in inputs),
            tuple(node.name for node in outputs),
            tuple(node.name for node in inputs if node not in later),
        )


def _section_graph(inputs: Sequence[fx.Node], nodes: Sequence[fx.Node], result: fx.node.Argument) -> fx.Graph:
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(fx.node.map_arg(result, copies.__getitem__))
    return graph
