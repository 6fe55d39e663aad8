"""Contexts of a network's code that torch.fx does not record: where gradients are off, and where autocast is set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import fx

CONTEXT = "context"  # key of a node's `Context` in its metadata; missing where it is that of the caller


class Autocast(NamedTuple):
    """An autocast context that the network's own code enters."""

    device: str
    enabled: bool
    dtype: torch.dtype
    cache_enabled: bool


class Context(NamedTuple):
    """The context that a network's own code sets around a node."""

    gradients: bool = True  # False below no_grad, set_grad_enabled(False) or inference_mode
    autocast: tuple[Autocast, ...] = ()  # outermost first


PLAIN = Context()


def context_of(node: fx.Node) -> Context:
    """Return the context that the network's code sets around a node."""
    context: Context = node.meta.get(CONTEXT, PLAIN)
    return context


@contextmanager
def entered(context: Context) -> Iterator[None]:
    """Enter a context, and leave it on exit."""
    with ExitStack() as stack:
        if not context.gradients:
            stack.enter_context(torch.no_grad())
        for device, enabled, dtype, cache_enabled in context.autocast:
            stack.enter_context(torch.autocast(device, dtype, enabled, cache_enabled))
        yield


@contextmanager
def plain_context() -> Iterator[None]:
    """Enable gradients and disable inference mode inside the block, whatever the caller has set."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def forget_gradients(graph: fx.Graph) -> None:
    """Disable gradients for the nodes from which they reach the output only where the network cuts them off.

    Otherwise a critic in front of a `detach` would train what the network itself does not train.
    """
    output = next(iter(reversed(graph.nodes)))
    for node in _ancestors(output, through_cuts=True) - _ancestors(output, through_cuts=False):
        if node.op not in ("placeholder", "get_attr"):
            node.meta[CONTEXT] = context_of(node)._replace(gradients=False)


def _ancestors(output: fx.Node, *, through_cuts: bool) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = list(output.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes if through_cuts or not _cuts_gradients(node) else ())
    return found


def _cuts_gradients(node: fx.Node) -> bool:
    is_data = node.target is getattr and str(node.args[1]) == "data"
    return is_data or node.target in ("detach", torch.detach) or not context_of(node).gradients


class AutocastStack:
    """The autocast contexts that code has entered and not left, while `recording`."""

    def __init__(self) -> None:
        self._entered: list[Autocast] = []

    def current(self) -> Context:
        """Return the context that code has set by now."""
        return Context(torch.is_grad_enabled(), tuple(self._entered))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Note each autocast context that is entered inside the block, as object or as decorator."""
        own = self._entered
        enter: Any = torch.autocast.__enter__
        leave: Any = torch.autocast.__exit__

        def noted_enter(self: Any) -> Any:
            own.append(Autocast(self.device, self._enabled, self.fast_dtype, self._cache_enabled))
            return enter(self)

        def noted_leave(self: Any, *error: Any) -> Any:
            own.pop()
            return leave(self, *error)

        torch.autocast.__enter__, torch.autocast.__exit__ = noted_enter, noted_leave  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.autocast.__enter__, torch.autocast.__exit__ = enter, leave  # type: ignore[method-assign]
            own.clear()
