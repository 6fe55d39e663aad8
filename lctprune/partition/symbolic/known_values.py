"""Compute what a network's code asks of a shape while it is traced: a length, a number, a condition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from lctprune.errors import NetworkError
from lctprune.partition.preserving.contexts import context_of, entered
from lctprune.partition.preserving.guarding import RandomStates
from lctprune.partition.symbolic.opaque import length

BATCHES = (2, 5)  # sizes of the two batches; what differs between them depends on the batch size
_SHAPE_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "is_cuda", "itemsize"}
_SHAPE_METHODS = {"size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "element_size", "get_device"}
_SHAPE_FUNCTIONS = {length, torch.numel, torch.is_tensor, torch.is_floating_point}


class UnknownValueError(Exception):
    """A value is not known while a network is traced."""


def require_equal(value: Any, expected: Any) -> None:
    """Refuse an input for which the network's code would go another way than it went when the network was cut.

    Raises:
        NetworkError: the value is not the expected one.
    """
    if not torch._C._get_tracing_state() and value != expected:
        raise NetworkError(
            f"the network was cut for inputs for which its code computes {expected}, and for this one it computes "
            f"{value}; cut it for inputs of this shape and type"
        )


class KnownValues:
    """The values of a graph's nodes on two batches of an example, computed when they are asked for.

    Args:
        root: network to which the graph belongs; its buffers may change.
        example: input, [batch, ...], of which the first sample is used.

    Attributes:
        is_computing: whether a value is being computed now, so that modules must run, not be traced.
    """

    def __init__(self, root: nn.Module, example: Tensor) -> None:
        self.is_computing = False
        self._root = root
        self._inputs = [example[:1].detach().repeat_interleave(size, 0) for size in BATCHES]
        self._values: dict[fx.Node, list[Any]] = {}

    def value(self, node: fx.Node) -> Any:
        """Return a value that follows from the shapes, types and devices of tensors, but not from the batch size.

        Raises:
            UnknownValueError: the node has no such value.
        """
        first, second = self._computed(node)
        if isinstance(first, Tensor) or not _is_of_shapes(node):
            raise UnknownValueError(
                "its control flow depends on the values of a tensor, or on whether it needs a gradient"
            )
        if first != second:
            raise UnknownValueError("its control flow depends on the number of samples in the batch")
        return first

    def length(self, node: fx.Node) -> int:
        """Return the length of a sequence or tensor.

        Raises:
            UnknownValueError: it has none, or it is different for each batch size.
        """
        first, second = self._computed(node)
        if not isinstance(first, Tensor | tuple | list):
            raise UnknownValueError(f"it goes through a {type(first).__name__}, whose items are not known")
        if len(first) != len(second):
            raise UnknownValueError("it goes through the samples of a batch one by one")
        return len(first)

    def _computed(self, node: fx.Node) -> list[Any]:
        with self._computing():
            for each in _ancestors(node, self._values):
                self._values[each] = [self._run(each, index) for index in range(len(self._inputs))]
        return self._values[node]

    @contextmanager
    def _computing(self) -> Iterator[None]:
        states, before = RandomStates(), self.is_computing
        self.is_computing = True
        try:
            with torch.no_grad():
                yield
        finally:
            self.is_computing = before
            states.restore()

    def _run(self, node: fx.Node, index: int) -> Any:
        def value(of: fx.Node) -> Any:
            return self._values[of][index]

        args, kwargs = fx.node.map_arg(node.args, value), fx.node.map_arg(node.kwargs, value)
        target: Any = node.target
        with entered(context_of(node)):
            match node.op:
                case "placeholder":
                    return self._inputs[index]
                case "get_attr":
                    return _attribute(self._root, target)
                case "call_module":
                    return self._root.get_submodule(target)(*args, **kwargs)
                case "call_method":
                    return getattr(args[0], target)(*args[1:], **kwargs)
                case _:
                    return target(*args, **kwargs)


def _attribute(root: nn.Module, name: str) -> Any:
    value: Any = root
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _ancestors(node: fx.Node, known: dict[fx.Node, list[Any]]) -> list[fx.Node]:
    """List the nodes that must be computed before a node and have not been, and the node, in the graph's order."""
    needed: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if each not in needed and each not in known:
            needed.add(each)
            waiting.extend(each.all_input_nodes)
    return [each for each in node.graph.nodes if each in needed]


def _is_of_shapes(node: fx.Node) -> bool:
    """Tell whether a node's value follows from the shapes, types and devices of tensors alone."""
    is_attribute = node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES
    is_method = node.op == "call_method" and node.target in _SHAPE_METHODS
    if is_attribute or is_method or node.target in _SHAPE_FUNCTIONS:
        return True
    is_call = node.op in ("call_function", "call_method")
    return is_call and bool(node.all_input_nodes) and all(map(_is_of_shapes, node.all_input_nodes))
