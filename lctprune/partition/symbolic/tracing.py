"""Trace a network with torch.fx, once in training mode and once in evaluation mode.

A functional dropout, stochastic depth or an auxiliary head makes the two graphs differ; a layer group runs its part of
the graph of the current mode. A submodule that cannot be traced without loss is kept whole. Where there is an example,
both graphs are compared with the network itself.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, fx, nn

from lctprune.errors import NetworkWarning, PartitionError
from lctprune.partition.preserving.guarding import CONSTANT, Snapshot
from lctprune.partition.preserving.modes import Modes
from lctprune.partition.symbolic.attempts import BY_HAND, WAS_VIEW, Attempts
from lctprune.partition.symbolic.graphs import nodes_of, output_of, owners

__all__ = [
    "BY_HAND",
    "WAS_VIEW",
    "Traced",
    "Tracing",
    "aligned",
    "nodes_of",
    "output_of",
    "owners",
    "require_one_input",
    "trace",
]


class Tracing(NamedTuple):
    """How a network was traced, once its graphs had been compared with it: recorded, so that it is done once.

    Attributes:
        tracer: `fx`, `export`, or `none` for an only group that is the network itself.
        whole: paths of the submodules that are kept whole.
    """

    tracer: Literal["fx", "export", "none"]
    whole: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: Sequence[str]) -> Tracing:
        """Read what `record` gave."""
        return cls(cast(Any, record[0]), tuple(record[1:]))

    @property
    def record(self) -> tuple[str, ...]:
        """The tracer, and then the paths."""
        return (self.tracer, *self.whole)


@dataclass(frozen=True)
class Traced:
    """A network's two graphs, each from one tensor to one tensor.

    Attributes:
        root: network.
        evaluation: graph in evaluation mode.
        training: graph in training mode.
        counterparts: map from nodes of `evaluation` to those that do the same in `training`.
        has_auxiliary: whether the network has auxiliary outputs in training, which `training` leaves out.
        modes: modes of the network's modules.
        whole: reasons for which submodules are kept whole, by their paths.
        by_export: whether torch.export traced it, in place of torch.fx.
    """

    root: nn.Module
    evaluation: fx.Graph
    training: fx.Graph
    counterparts: dict[fx.Node, fx.Node]
    has_auxiliary: bool
    modes: Modes = field(default_factory=Modes)
    whole: dict[str, str] = field(default_factory=dict)
    by_export: bool = False

    @property
    def tracing(self) -> Tracing:
        """How it was traced."""
        return Tracing("export" if self.by_export else "fx", tuple(self.whole))


def trace(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    snapshot: Snapshot | None = None,
    known: Tracing | None = None,
) -> Traced:
    """Trace a network of one input in both modes.

    Auxiliary outputs, which a network returns in training only, are left out, and so are the modules that make them.
    The model is afterwards as it was, except for constants of the graphs, which `unchanged` removes.

    Args:
        model: network.
        example: input, [batch, ...], on which the graphs are compared with the network; without it they are not.
        snapshot: state of the model; by default its present state.
        known: how it was traced before; then nothing is compared.

    Raises:
        PartitionError: the network cannot be traced without loss, or returns several outputs in evaluation.
        NetworkError: the network does not run on the example.

    Warns:
        NetworkWarning: auxiliary outputs are left out.
    """
    attempts = Attempts(model, example, snapshot or Snapshot(model), known and known.whole)
    evaluation, training = attempts.graphs()
    outputs = output_of(training)
    has_auxiliary = isinstance(outputs, tuple | list)
    if has_auxiliary:
        dropped = _keep_first_output(training)
        makers = f" ({', '.join(dropped)})" if dropped else ""
        name = type(model).__name__
        warnings.warn(f"{name}'s auxiliary outputs in training are left out{makers}", NetworkWarning, stacklevel=3)
    counterparts = aligned(evaluation, training)
    return Traced(model, evaluation, training, counterparts, has_auxiliary, attempts.modes, attempts.whole)


def require_one_input(model: nn.Module) -> None:
    """Refuse a network that needs several inputs.

    Raises:
        PartitionError: the network needs several inputs.
    """
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    required = [item.name for item in parameters if item.default is item.empty and item.kind not in variadic]
    if len(required) > 1:
        raise PartitionError(f"{type(model).__name__} takes several inputs ({', '.join(required)}); {BY_HAND}")


def _keep_first_output(graph: fx.Graph) -> list[str]:
    """Make the first of several outputs the only one, and return the modules or nodes that made the others."""
    output = next(iter(reversed(graph.nodes)))
    container = set(output.all_input_nodes) - set(output_of(graph))  # a named tuple
    first, *others_given = output_of(graph)
    kept = _reachable([first], lambda node: node.all_input_nodes)
    given = [node for node in others_given if isinstance(node, fx.Node)]
    others = _reachable(given, lambda node: node.all_input_nodes) - kept
    output.args = (first,)
    kept_modules = {name for node in kept for name in owners(node)}
    dropped = [
        next((name for name in owners(node) if name not in kept_modules), node.name)
        for node in graph.nodes
        if node in others
    ]
    _erase(graph, _reachable(others | container, lambda node: node.users))
    return list(dict.fromkeys(dropped))


def _reachable(start: Iterable[fx.Node], neighbours: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(neighbours(node))
    return seen


def _erase(graph: fx.Graph, nodes: set[fx.Node]) -> None:
    for node in reversed(list(graph.nodes)):
        if node in nodes:
            graph.erase_node(node)


def _key(node: fx.Node) -> tuple[str, ...]:
    """Describe what a node does and where, equally for both graphs."""
    is_constant = node.op == "get_attr" and str(node.target).startswith(CONSTANT)
    return (node.op, CONSTANT if is_constant else str(node.target), *owners(node))


def aligned(evaluation: fx.Graph, training: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Map nodes of one graph to those that do the same in the other."""
    left, right = nodes_of(evaluation), nodes_of(training)
    keys = [[_key(node) for node in side] for side in (left, right)]
    if keys[0] == keys[1]:
        return dict(zip(left, right, strict=True))
    blocks = difflib.SequenceMatcher(a=keys[0], b=keys[1], autojunk=False).get_matching_blocks()
    return dict(
        itertools.chain.from_iterable(
            zip(left[block.a : block.a + block.size], right[block.b : block.b + block.size], strict=True)
            for block in blocks
        )
    )
