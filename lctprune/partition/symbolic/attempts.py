"""Trace a network in both modes, and keep whole each submodule that cannot be traced without loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from lctprune.errors import PartitionError, first_line
from lctprune.partition.preserving.comparing import (
    Observation,
    Observer,
    assigned_places,
    calls_of,
    differing_gradient,
    differing_places,
    varied,
)
from lctprune.partition.preserving.contexts import forget_gradients
from lctprune.partition.preserving.guarding import CONSTANT, Snapshot, matches
from lctprune.partition.preserving.modes import modes_of
from lctprune.partition.preserving.sections import graph_function
from lctprune.partition.symbolic.graphs import nodes_of, output_of, owners
from lctprune.partition.symbolic.known_values import KnownValues
from lctprune.partition.symbolic.tracer import SymbolicTracer, UnfollowedError, UntraceableError

WAS_VIEW = "was_view"  # mark of a replaced `view`, which cannot flatten the channels-last tensors of training
_KNOWN = ("torch", "torchvision", "timm", "lctprune")  # libraries whose code needs no comparison
BY_HAND = "give the groups to lctprune.LocalCriticNetwork by hand, in a Python program"


class Attempts:
    """Attempts to trace a network, each of which keeps more submodules whole, until its graphs do what it does.

    Args:
        model: network.
        example: input on which the graphs are compared with the network; None to compare nothing.
        snapshot: state of the network.
        whole: paths that an earlier comparison kept whole, which is not made again.

    Attributes:
        modes: modes of the network's modules.
        whole: reasons for which submodules are kept whole, by their paths.
    """

    def __init__(
        self, model: nn.Module, example: Tensor | None, snapshot: Snapshot, whole: Collection[str] | None = None
    ) -> None:
        _require_no_hooks(model)
        self._model, self._example, self._snapshot = model, example, snapshot
        self._constants: dict[str, object] = {}
        self._was_compared = whole is not None
        self.modes = modes_of(snapshot)
        self.whole = {path: "it has hooks" for path, module in model.named_modules() if path and _hooks_of(module)}
        self.whole |= dict.fromkeys(whole or (), "it was kept whole before")

    def graphs(self) -> tuple[fx.Graph, fx.Graph]:
        """Return the graphs in evaluation mode and in training mode, with all outputs."""
        try:
            references = self._references()
            for _ in range(1 + len(list(self._model.modules()))):
                try:
                    graphs = self._graph(training=False), self._graph(training=True)
                    self._require_one_output(*graphs)
                    for graph, reference, training in zip(graphs, references, (False, True), strict=True):
                        if reference is not None:
                            self._compare(graph, reference, training=training)
                    return graphs
                except UntraceableError as problem:
                    self._keep_whole(problem)
            raise AssertionError("each attempt keeps a further submodule whole")
        finally:
            self._snapshot.restore(**self._constants)

    def _references(self) -> tuple[Observation | None, Observation | None]:
        """Run the network itself, and keep whole each submodule that assigns attributes."""
        if self._example is None or self._was_compared:
            return None, None
        if self._example.is_meta:
            _require_known_code(self._model)
            return None, None
        self._observer = Observer(self._snapshot, self.modes, varied(self._example))
        evaluation, training = (self._observer.itself(self._model, training=mode) for mode in (False, True))
        for path, name in assigned_places(evaluation, training):
            if path not in self.whole:
                self._keep_whole(UntraceableError(path, assigns(name)))
        return evaluation, training

    def _graph(self, *, training: bool) -> fx.Graph:
        """Trace the network in one mode."""
        self._snapshot.restore(**self._constants)
        self.modes.put(self._model, training)
        known = None if self._example is None else KnownValues(self._model, self._example)
        graph = SymbolicTracer(self.whole, known).graph_of(self._model)
        self._constants |= {name: value for name, value in vars(self._model).items() if name.startswith(CONSTANT)}
        for node in graph.nodes:
            if node.op == "call_method" and node.target == "view" and not _views_as_type(node):
                node.target, node.meta[WAS_VIEW] = "reshape", True
        forget_gradients(graph)
        return graph

    def _require_one_output(self, evaluation: fx.Graph, training: fx.Graph) -> None:
        name = type(self._model).__name__
        if not isinstance(output_of(evaluation), fx.Node):
            raise PartitionError(f"{name} does not return one tensor; {BY_HAND}")
        outputs = output_of(training)
        is_several = isinstance(outputs, tuple | list) and bool(outputs) and isinstance(outputs[0], fx.Node)
        if not isinstance(outputs, fx.Node) and not is_several:
            raise PartitionError(f"{name} does not return one tensor in training; {BY_HAND}")

    def _compare(self, graph: fx.Graph, reference: Observation, *, training: bool) -> None:
        """Compare a graph with the network itself.

        Raises:
            UntraceableError: they differ.
        """
        function, mode = graph_function(graph), "training" if training else "evaluation"
        run = partial(function, self._model)
        try:
            seen = self._observer.observe(run, training=training, constants=self._constants)
        except Exception as error:  # the network itself runs
            path = self._first_difference(graph, run, training=training)
            raise UnfollowedError(path, f"it fails in {mode} mode when it is traced: {first_line(error)}") from error
        for path, name in differing_places(reference, seen):
            raise UntraceableError(path, assigns(name))
        if not matches(reference.outputs, seen.outputs):
            path = self._first_difference(graph, run, training=training)
            raise UnfollowedError(path, f"it computes something else in {mode} mode when it is traced")
        if parameter := differing_gradient(reference, seen):
            raise UnfollowedError("", f"the gradient of {parameter} is another one when it is traced")

    def _first_difference(self, graph: fx.Graph, run: Callable[[Tensor], Any], *, training: bool) -> str:
        """Return the path of the module whose code first computes something else when it is traced."""
        nodes = [node for node in graph.nodes if node.op == "call_module"]
        paths = {str(node.target) for node in nodes}
        calls: list[list[tuple[str, Any]]] = []
        for each in (self._model, run):

            def noted(x: Tensor, each: Callable[[Tensor], Any] = each) -> Any:
                with calls_of(self._model, paths) as made:
                    calls.append(made)
                    return each(x)

            with suppress(Exception):
                self._observer.observe(noted, training=training, constants=self._constants)
        same = itertools.takewhile(lambda pair: matches([*pair[0]], [*pair[1]]), zip(*calls, strict=False))
        count = len(list(same))
        around = [*nodes[max(count - 1, 0) : count + 1], *nodes_of(graph)[-1:]]  # the difference is made between these
        parents = (path for node in around for path in reversed(owners(node)[: -1 if node in nodes else None]))
        return next((path for path in parents if path not in self.whole and self._has_own_code(path)), "")

    def _has_own_code(self, path: str) -> bool:
        return not type(self._model.get_submodule(path)).__module__.startswith("torch.nn")

    def _keep_whole(self, problem: UntraceableError) -> None:
        """Keep a submodule whole in the next attempt, and all others of its class.

        Raises:
            PartitionError: it is the network itself.
        """
        path = problem.path
        while path in self.whole or isinstance(self._model.get_submodule(path), nn.ModuleList | nn.ModuleDict):
            path = path.rpartition(".")[0]  # what is done to a submodule is done by a module around it
        name = type(self._model).__name__
        if not path:
            inside = f" at {problem.path}" if problem.path else ""
            raise PartitionError(f"{name} cannot be traced{inside} ({problem.reason}); {BY_HAND}") from problem
        kind = type(self._model.get_submodule(path))
        for other, module in self._model.named_modules():
            if other == path or (other and type(module) is kind and self._has_own_code(path)):
                self.whole.setdefault(other, problem.reason)


def assigns(name: str) -> str:
    """Say that a module's code assigns an attribute, with the remedy."""
    return (
        f"it assigns its attribute {name} in forward, which groups would not do; put that code into a submodule, or "
        "change a buffer in place, as by copy_"
    )


def _hooks_of(module: nn.Module) -> list[str]:
    """Name the kinds of hooks that a module has."""
    kinds = ("forward_pre", "forward", "backward_pre", "backward")
    return [kind.replace("_", " ") for kind in kinds if getattr(module, f"_{kind}_hooks")]


def _require_no_hooks(model: nn.Module) -> None:
    if kinds := _hooks_of(model):
        raise PartitionError(
            f"{type(model).__name__} has {' and '.join(kinds)} hooks of its own, which layer groups would not call; "
            f"register them on a submodule, or {BY_HAND}"
        )


def _require_known_code(model: nn.Module) -> None:
    """Refuse a network without values, which cannot be compared with its graphs, unless its code is well known."""
    for module in model.modules():
        if type(module).__module__.partition(".")[0] not in _KNOWN:
            name = type(module).__name__
            raise PartitionError(
                f"{name} is on the meta device, where its graphs cannot be compared with it; {BY_HAND}"
            )


def _views_as_type(node: fx.Node) -> bool:
    asked = [argument.args[1:] for argument in node.all_input_nodes if argument.target is getattr]
    return "dtype" in node.kwargs or ("dtype",) in asked or any(isinstance(each, torch.dtype) for each in node.args)
