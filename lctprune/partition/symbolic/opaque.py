"""Record calls that torch.fx does not: of functions of imported libraries, kept whole, and of custom gradients."""

from __future__ import annotations

import builtins
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import Function

_APPLY = Function.__dict__["apply"]
_OF_SIZES = ("empty", "ones", "rand", "randn", "zeros")  # functions of torch that take sizes one by one
_EINOPS = ("rearrange", "reduce", "repeat", "einsum", "pack", "unpack")
_SKIPPED = ("torch.", "numpy", "scipy", "sympy", "pandas", "matplotlib")  # modules that hold none of them

CreateProxy = Callable[..., fx.Proxy]


def opaque_modules() -> tuple[type, ...]:
    """Return the classes of modules that must not be traced into."""
    modules: list[type] = []
    if (operations := sys.modules.get("torchvision.ops")) is not None:
        modules.append(operations.DeformConv2d)  # branches on shapes
    if (timm := sys.modules.get("timm.models")) is not None:
        modules += timm.get_notrace_modules()
    if (layers := sys.modules.get("einops.layers.torch")) is not None:
        modules += [layers.Rearrange, layers.Reduce, layers.EinMix]
    return tuple(modules)


def opaque_functions() -> tuple[Callable[..., Any], ...]:
    """Return the functions that their own library marks as not to be traced into."""
    timm = sys.modules.get("timm.models")
    return tuple(timm.get_notrace_functions()) if timm is not None else ()


def custom_gradients() -> dict[CodeType, str]:
    """Map the code of the forward of every custom autograd function to the function's name."""
    found: dict[CodeType, str] = {}
    waiting: list[type] = [Function]
    while waiting:
        subclasses: list[type] = waiting.pop().__subclasses__()
        for each in subclasses:
            waiting.append(each)
            forward = (
                inspect.unwrap(vars(each)["forward"].__func__)
                if isinstance(vars(each).get("forward"), staticmethod)
                else None
            )
            if isinstance(forward, FunctionType):
                found[forward.__code__] = each.__name__
    return found


@contextmanager
def redirected(create_proxy: CreateProxy) -> Iterator[None]:
    """Record calls of einops, torchvision.ops and custom autograd functions whole, inside the block.

    Each name of such a function in a module that has been imported is bound to a function that records a call with a
    proxy, and is bound to its own again on exit.
    """
    bound = [(torch.__dict__, name, _of_sizes(create_proxy, getattr(torch, name))) for name in _OF_SIZES]
    bound += [(names, name, _recorded(create_proxy, value)) for names, name, value in _names_of_whole_functions()]
    bound.append((vars(builtins), "len", _length(create_proxy)))
    before = [(names, name, names[name]) for names, name, _ in bound]

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        if _has_proxy(args) or _has_proxy(kwargs):
            return create_proxy("call_function", _applying(cls), args, kwargs)
        return _APPLY.__get__(None, cls)(*args, **kwargs)

    try:
        for names, name, value in bound:
            names[name] = value
        Function.apply = classmethod(apply)
        yield
    finally:
        Function.apply = _APPLY
        for names, name, value in before:
            names[name] = value


def _names_of_whole_functions() -> list[tuple[dict[str, Any], str, Callable[..., Any]]]:
    """Find the names, in all imported modules, of functions that are recorded whole."""
    whole = {id(each) for each in _library_functions()}
    found = []
    for module_name, module in list(sys.modules.items()):
        names = getattr(module, "__dict__", None)
        if type(names) is not dict or module_name.startswith(_SKIPPED):
            continue
        for name, value in list(names.items()):
            if id(value) in whole:
                found.append((names, name, value))
            elif isinstance(value, MethodType | BuiltinFunctionType) and _is_apply(value):
                found.append((names, name, _applying(value.__self__)))
    return found


def _is_apply(method: Any) -> bool:
    owner = method.__self__
    return method.__name__ == "apply" and isinstance(owner, type) and issubclass(owner, Function)


def _library_functions() -> list[Callable[..., Any]]:
    functions: list[Callable[..., Any]] = []
    if (einops := sys.modules.get("einops")) is not None:
        functions += [getattr(einops, name) for name in _EINOPS if hasattr(einops, name)]
    if (operations := sys.modules.get("torchvision.ops")) is not None:
        own_marks = ("stochastic_depth", "drop_block2d", "drop_block3d")  # marked by torch.fx.wrap
        public = {name: value for name, value in vars(operations).items() if isinstance(value, FunctionType)}
        functions += [value for name, value in public.items() if name not in own_marks and not name.startswith("_")]
    return functions


@functools.cache
def _applying(function: type[Function]) -> Callable[..., Any]:
    """Return the function that applies a custom autograd function; the same one for both graphs."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        if torch._C._get_tracing_state():  # for export, which cannot call Python
            has_setup = function.setup_context is not Function.setup_context
            return function.forward(*args, **kwargs) if has_setup else function.forward(_NoGradient(), *args, **kwargs)
        return function.apply(*args, **kwargs)

    apply.__name__ = apply.__qualname__ = function.__name__
    return apply


class _NoGradient:
    """A context of a custom autograd function that keeps nothing for the backward pass."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def _recorded(create_proxy: CreateProxy, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        if _has_proxy(args) or _has_proxy(kwargs):
            return create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return recorded


def _of_sizes(create_proxy: CreateProxy, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def recorded(*sizes: Any, **settings: Any) -> Any:
        if any(isinstance(size, fx.Proxy) for size in sizes) and len(sizes) > 1:
            return create_proxy("call_function", function, (sizes,), settings)
        return function(*sizes, **settings)

    return recorded


def length(value: Any) -> Any:
    """Return a length; of a tensor in a form that can be exported."""
    return value.shape[0] if isinstance(value, Tensor) else len(value)


def _length(create_proxy: CreateProxy) -> Callable[[Any], Any]:
    original = len  # the name is bound to the result while tracing

    def recorded(value: Any, /) -> Any:
        is_proxy = isinstance(value, fx.Proxy)
        return create_proxy("call_function", length, (value,), {}) if is_proxy else original(value)

    return recorded


def _has_proxy(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_proxy, value))
    return any(map(_has_proxy, value.values())) if isinstance(value, dict) else isinstance(value, fx.Proxy)
