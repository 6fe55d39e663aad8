"""Trace a network with torch.fx, once in training mode and once in evaluation mode.

A functional dropout, stochastic depth or an auxiliary head makes the two graphs differ; a layer group runs its part of
the graph of the current mode.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import fx, nn

from lctprune.errors import NetworkWarning, PartitionError, first_line
from lctprune.utils.modules import evaluation_mode

CONSTANT = "_tensor_constant"  # how torch.fx names tensors that a network makes itself, which it stores there
WAS_VIEW = "was_view"  # mark of a replaced `view`, which cannot flatten the channels-last tensors of training
BY_HAND = "give the groups to LocalCriticNetwork by hand"


@dataclass(frozen=True)
class Traced:
    """A network's two graphs, each from one tensor to one tensor.

    Attributes:
        root: network.
        evaluation: graph in evaluation mode.
        training: graph in training mode.
        counterparts: map from nodes of `evaluation` to those that do the same in `training`.
        has_auxiliary: whether the network has auxiliary outputs in training, which `training` leaves out.
        by_export: whether torch.export traced it, in place of torch.fx.
    """

    root: nn.Module
    evaluation: fx.Graph
    training: fx.Graph
    counterparts: dict[fx.Node, fx.Node]
    has_auxiliary: bool
    by_export: bool = False


def trace(model: nn.Module) -> Traced:
    """Trace a network of one input in both modes.

    Auxiliary outputs, which a network returns in training only, are left out, and so are the modules that make them.

    Raises:
        PartitionError: the network cannot be traced, or returns several outputs in evaluation.

    Warns:
        NetworkWarning: auxiliary outputs are left out.
    """
    with evaluation_mode(model):  # restores each module's own mode
        evaluation, training = (_graph(model.train(mode)) for mode in (False, True))
    name = type(model).__name__
    if not isinstance(output_of(evaluation), fx.Node):
        raise PartitionError(f"{name} does not return one tensor; {BY_HAND}")
    outputs = output_of(training)
    has_auxiliary = isinstance(outputs, tuple | list) and bool(outputs) and isinstance(outputs[0], fx.Node)
    if has_auxiliary:
        dropped = _keep_first_output(training)
        makers = f" ({', '.join(dropped)})" if dropped else ""
        warnings.warn(f"{name}'s auxiliary outputs in training are left out{makers}", NetworkWarning, stacklevel=3)
    elif not isinstance(outputs, fx.Node):
        raise PartitionError(f"{name} does not return one tensor in training; {BY_HAND}")
    return Traced(model, evaluation, training, aligned(evaluation, training), has_auxiliary)


@contextmanager
def without_leftovers(model: nn.Module) -> Iterator[None]:
    """Remove the constants that tracing leaves in a network."""
    try:
        yield
    finally:
        for name in [name for name in vars(model) if name.startswith(CONSTANT)]:
            delattr(model, name)


def nodes_of(graph: fx.Graph) -> list[fx.Node]:
    """List all nodes but the output."""
    return [node for node in graph.nodes if node.op != "output"]


def owners(node: fx.Node) -> list[str]:
    """Name the modules that a node belongs to, outermost first."""
    return [path.split("@")[0] for path in node.meta.get("nn_module_stack", {})]


class _Tracer(fx.Tracer):
    """Remembers in which module tracing failed, and does not trace into what is known to be untraceable."""

    proxy_buffer_attributes = True  # or values computed from a buffer would become constants

    def __init__(self) -> None:
        modules, functions = _opaque_to_tracing()
        super().__init__(autowrap_functions=functions)
        self.opaque_modules = modules
        self.inside: list[str] = []

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: object = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Create one input; all others keep their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in self.opaque_modules or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.inside.append(self.path_of_module(m))
        value = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        return value


def _opaque_to_tracing() -> tuple[tuple[type, ...], tuple[Callable[..., Any], ...]]:
    """Return the modules and functions that tracing must not enter, of the libraries that have been imported."""
    modules: list[type] = []
    functions: list[Callable[..., Any]] = []
    if (operations := sys.modules.get("torchvision.ops")) is not None:
        modules.append(operations.DeformConv2d)  # branches on shapes
    if (timm := sys.modules.get("timm.models")) is not None:
        modules += timm.get_notrace_modules()
        functions += timm.get_notrace_functions()
    return tuple(modules), tuple(functions)


def _graph(model: nn.Module) -> fx.Graph:
    name = type(model).__name__
    if model._forward_pre_hooks or model._forward_hooks:
        raise PartitionError(f"{name} has forward hooks of its own, which layer groups would not call; {BY_HAND}")
    tracer = _Tracer()
    before = _random_states()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever the model's own code raises when it is traced
        place = f" at {tracer.inside[-1]}" if tracer.inside else ""
        raise PartitionError(f"{name} cannot be traced{place} ({first_line(error)}); {BY_HAND}") from error
    if _random_states() != before:
        raise PartitionError(
            f"{name} draws random numbers in Python, which tracing would freeze (hand-written stochastic depth?); "
            f"use torchvision.ops.StochasticDepth, or {BY_HAND}"
        )
    for node in graph.nodes:
        if node.op == "call_method" and node.target == "view" and not _views_as_type(node):
            node.target, node.meta[WAS_VIEW] = "reshape", True
    return graph


def _views_as_type(node: fx.Node) -> bool:
    asked = [argument.args[1:] for argument in node.all_input_nodes if argument.target is getattr]
    return "dtype" in node.kwargs or ("dtype",) in asked or any(isinstance(each, torch.dtype) for each in node.args)


def _random_states() -> tuple[object, ...]:
    """Return the states of the random generators that a network's Python code may draw from."""
    return torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state())


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


def output_of(graph: fx.Graph) -> Any:
    """Return the graph's output: a node, or several in a tuple or another container."""
    output: Any = next(iter(reversed(graph.nodes))).args[0]
    if isinstance(output, fx.Node) and isinstance(output.target, type) and issubclass(output.target, tuple):
        return output.args  # a named tuple that the network makes
    return output


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
