"""Trace a network symbolically, with what torch.fx leaves out or refuses: contexts, custom gradients, known shapes."""

from __future__ import annotations

import inspect
import operator
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from lctprune.errors import first_line
from lctprune.partition.preserving.contexts import CONTEXT, PLAIN, AutocastStack, plain_context
from lctprune.partition.preserving.guarding import random_states
from lctprune.partition.symbolic.known_values import KnownValues, UnknownValueError, require_equal
from lctprune.partition.symbolic.opaque import custom_gradients, opaque_functions, opaque_modules, redirected

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))
WRAP = "keep a function whole by torch.fx.wrap('NAME') at the top of its file"


class UntraceableError(Exception):
    """A module's code cannot be traced.

    Args:
        path: path of the module whose code it is, empty for the network itself.
        reason: what stands in the way, with a remedy.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


class UnfollowedError(UntraceableError):
    """Symbolic tracing fails at a module's code, or makes a graph that does something else; another tracer may not."""


class SymbolicTracer(fx.Tracer):
    """Trace a network of one input, and remember in which module tracing failed.

    Args:
        whole: paths of the modules that are not traced into.
        known: values of nodes on examples; None if there is no example.
    """

    proxy_buffer_attributes = True  # or values computed from a buffer would become constants

    def __init__(self, whole: Mapping[str, str], known: KnownValues | None) -> None:
        super().__init__(autowrap_functions=opaque_functions())
        self._whole, self._known, self._opaque_modules = whole, known, opaque_modules()
        self._inside = [""]
        self._autocast = AutocastStack()
        self._custom_forwards = custom_gradients()

    def graph_of(self, model: nn.Module) -> fx.Graph:
        """Trace a network in its current mode.

        Raises:
            UntraceableError: it cannot be traced.
        """
        before = random_states()
        try:
            with plain_context(), self._autocast.recording(), redirected(self.create_proxy):
                graph = self.trace(model)
        except UntraceableError:
            raise
        except Exception as error:  # whatever the model's own code raises when it is traced
            raise UnfollowedError(self._inside[-1], _explained(error)) from error
        self._require_unchanged(before)
        return graph

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: object = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Create one input; all others keep their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keep whole what is not traced into."""
        is_opaque = module_qualified_name in self._whole or isinstance(m, self._opaque_modules)
        return is_opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace into a module, or run it where a value is being computed."""
        if self._known is not None and self._known.is_computing:
            return forward(*args, **kwargs)
        if self.submodule_paths is not None and m not in self.submodule_paths:
            return self._call_foreign(m, forward, args, kwargs)
        before = random_states()
        self._inside.append(self.path_of_module(m))
        value = super().call_module(m, forward, args, kwargs)
        self._require_unchanged(before)
        self._inside.pop()
        return value

    def _call_foreign(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace through a module that is not part of the network, if it has nothing to learn."""
        if m.state_dict():
            raise UntraceableError(
                self._inside[-1],
                f"it calls a {type(m).__name__} that is not one of its submodules, so that nothing would train it; "
                "make it in __init__, as an attribute or in an nn.ModuleList",
            )
        return forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return a parameter or buffer symbolically, or itself where a value is being computed."""
        if self._known is not None and self._known.is_computing:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, *arguments: Any, **settings: Any) -> fx.Node:
        """Create a node that knows its context."""
        self._require_own_gradient()
        node = super().create_node(*arguments, **settings)
        if (context := self._autocast.current()) != PLAIN:
            node.meta[CONTEXT] = context
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return a proxy that knows what Python asks of it."""
        return _KnownProxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Return the truth of a condition on shapes."""
        return bool(self.value_of(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Go through the items of a sequence whose length is known."""
        items: Any = obj
        return iter([items[index] for index in range(self.length_of(obj))])

    def value_of(self, proxy: fx.Proxy) -> Any:
        """Return the value of a proxy that is the same for every input of the example's shape; a node guards it.

        Raises:
            UnknownValueError: it depends on the batch size or on values of tensors, or there is no example.
        """
        value = self._require_known().value(proxy.node)
        self.create_proxy("call_function", require_equal, (proxy, value), {})
        return value

    def length_of(self, proxy: fx.Proxy) -> int:
        """Return the length of a tuple, list or tensor, which must not depend on the batch size."""
        return self._require_known().length(proxy.node)

    def _require_known(self) -> KnownValues:
        if self._known is None:
            raise UnknownValueError("its control flow depends on the input")
        return self._known

    def _require_unchanged(self, before: tuple[object, ...]) -> None:
        if random_states() != before:
            raise UntraceableError(
                self._inside[-1],
                "it draws random numbers in Python, which tracing would freeze (hand-written stochastic depth?); use "
                "torchvision.ops.StochasticDepth, or put that code into a submodule",
            )

    def _require_own_gradient(self) -> None:
        """Refuse the inside of a custom autograd function, whose own backward would be lost."""
        frame = inspect.currentframe()
        while frame is not None and frame.f_code is not _TRACE:
            if (name := self._custom_forwards.get(frame.f_code)) is not None:
                raise UntraceableError(
                    self._inside[-1],
                    f"it applies the autograd function {name} by another name than {name}.apply, and its backward "
                    f"would be lost; call {name}.apply, or put that code into a submodule",
                )
            frame = frame.f_back


_TRACE = fx.Tracer.trace.__code__


class _Known:
    """What Python asks of a value of its own: length, items, truth, numbers."""

    tracer: SymbolicTracer

    def __getattr__(self, name: str) -> fx.Proxy:
        return _KnownAttribute(self, name)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self.tracer.length_of(self)  # type: ignore[arg-type]

    def __index__(self) -> int:
        return operator.index(self.tracer.value_of(self))  # type: ignore[arg-type]

    def __int__(self) -> int:
        return int(self.tracer.value_of(self))  # type: ignore[arg-type]

    def __float__(self) -> float:
        return float(self.tracer.value_of(self))  # type: ignore[arg-type]

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> fx.Proxy:
        """Record that a gradient hook is registered on a tensor."""
        return self.tracer.create_proxy("call_function", _hooked(hook), (self,), {})


def _hooked(hook: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], object]:
    def register_hook(tensor: Tensor) -> object:
        return tensor.register_hook(hook) if tensor.requires_grad else None  # type: ignore[no-untyped-call]

    return register_hook


class _KnownProxy(_Known, fx.Proxy):  # type: ignore[misc]
    pass


class _KnownAttribute(_Known, fx.proxy.Attribute):  # type: ignore[misc]
    pass


def _explained(error: Exception) -> str:
    """Say what an error of traced code is, and on which line of the user's code it was raised."""
    reason = first_line(error)
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_LIBRARIES) and not frame.filename.startswith("<")
    ]
    where = f" on line {own[-1].lineno} of {own[-1].filename}, in {own[-1].name}" if own else ""
    return f"{reason}{where}; {WRAP}, or put that code into a submodule"
