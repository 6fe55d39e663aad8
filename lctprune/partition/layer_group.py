"""Make layer groups from a traced network and its cut points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Self

from torch import Tensor, fx, nn

from lctprune.partition.cut_points import CutPoint
from lctprune.partition.exported.remade import padding_mask, remake, without_padding
from lctprune.partition.preserving.modes import Modes
from lctprune.partition.preserving.sections import graph_function
from lctprune.partition.symbolic.graphs import nodes_of, output_of
from lctprune.partition.symbolic.tracing import Traced


class LayerGroup(nn.Module):
    """A consecutive part of a network, which shares the network's modules and parameters and their names.

    Args:
        root: network.
        evaluation: graph of one input to run in evaluation mode, with nodes of `root`.
        training: graph of one input to run in training mode, with nodes of `root`.
        modes: modes of the network's modules.

    Attributes:
        training_graph: graph of one input that runs in training mode.
    """

    def __init__(self, root: nn.Module, evaluation: fx.Graph, training: fx.Graph, modes: Modes) -> None:
        super().__init__()
        nodes = [*training.nodes, *evaluation.nodes]
        for op in ("call_module", "get_attr"):  # a module before a parameter inside it
            for target in dict.fromkeys(str(node.target) for node in nodes if node.op == op):
                _adopt(root, self, target)
        self.training_graph = training
        self._run_in_training = graph_function(training)
        self._run_in_evaluation = graph_function(evaluation)
        self._modes = modes
        self.training = root.training

    def forward(self, x: Tensor) -> Tensor:
        """Run the graph of the current mode."""
        return self._run_in_training(self, x) if self.training else self._run_in_evaluation(self, x)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what the network leaves in evaluation mode when it trains, or has frozen, stays so."""
        super().train(mode)
        self._modes.adjust(self, mode)
        return self


def _adopt(root: nn.Module, group: nn.Module, target: str) -> None:
    """Share a module, parameter or buffer of `root` with `group`, under its dotted name."""
    *path, name = target.split(".")
    source, own = root, group
    for part in path:
        source = getattr(source, part)
        if not hasattr(own, part):
            own.add_module(part, nn.Module())
            getattr(own, part).training = source.training
        own = getattr(own, part)
    if hasattr(own, name):
        return
    value = getattr(source, name)
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        is_persistent = name in source._buffers and name not in source._non_persistent_buffers_set
        own.register_buffer(name, value, persistent=is_persistent)
    else:
        setattr(own, name, value)


def layer_groups(traced: Traced, cuts: Sequence[CutPoint]) -> list[nn.Module]:
    """Make the groups between consecutive cuts, which run in both modes."""
    evaluation, training = nodes_of(traced.evaluation), nodes_of(traced.training)
    ends = [evaluation[cut.node] for cut in cuts]
    edges = [evaluation[0], *ends, output_of(traced.evaluation)]
    training_edges = [training[0], *(traced.counterparts[end] for end in ends), output_of(traced.training)]
    return [
        LayerGroup(traced.root, _extract(evaluation, *pair), _extract(training, *training_pair), traced.modes)
        for pair, training_pair in zip(itertools.pairwise(edges), itertools.pairwise(training_edges), strict=True)
    ]


def _extract(nodes: Sequence[fx.Node], start: fx.Node, end: fx.Node) -> fx.Graph:
    """Copy the nodes after `start`, up to and including `end`, to a graph of one input.

    What follows the network's output, such as an update of a buffer, belongs to the last group.
    """
    is_last = any(user.op == "output" for user in end.users)
    stop = len(nodes) if is_last else nodes.index(end) + 1
    graph = fx.Graph()
    copies = {start: graph.placeholder("x")}
    inside = nodes[nodes.index(start) + 1 : stop]
    valid = padding_mask(end, nodes)
    used = [each for node in inside for each in node.all_input_nodes]
    remake(graph, [*used, *([valid] if valid else [])], nodes, start, copies)
    for node in inside:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(graph.call_function(without_padding, (copies[end], copies[valid])) if valid else copies[end])
    return graph
