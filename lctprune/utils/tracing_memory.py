"""Let TorchScript's types go with what was traced; by itself, PyTorch keeps those of every trace for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

STATE = ("_python_cu", "_jit_caching_layer", "_jit_function_overload_caching")
OVERLOADS = "_overloaded_fns"


@contextmanager
def forgetting_types() -> Iterator[None]:
    """Keep the types of what is traced inside the block apart, so that they are freed with it.

    PyTorch registers a type per traced module in one compilation unit and one store of types, which nothing empties:
    some MiB per trace of a ResNet. Compiled functions belong to one unit, so they are remembered inside the block only.
    Where a version of PyTorch has other ones, they stay, and so does the memory.
    """
    state, types, source = vars(torch.jit._state), vars(torch.jit._recursive), vars(torch._jit_internal)
    places: list[tuple[dict[str, Any], str]] = [(types, "concrete_type_store"), *((state, name) for name in STATE)]
    kept = [(holder, name, holder[name], type(holder[name])()) for holder, name in places if name in holder]
    if OVERLOADS in source:  # each is compiled once, and struck off
        kept.append((source, OVERLOADS, source[OVERLOADS], dict(source[OVERLOADS])))
    try:
        for holder, name, _, new in kept:
            holder[name] = new
        yield
    finally:
        for holder, name, value, _ in kept:
            holder[name] = value
