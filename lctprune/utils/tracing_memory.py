"""Let TorchScript's types go with what was traced; by itself, PyTorch keeps those of every trace for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def forgetting_types() -> Iterator[None]:
    """Keep the types of what is traced inside the block apart, so that they are freed with it.

    PyTorch registers a type per traced module in one compilation unit and one store of types, which nothing empties:
    some MiB per trace of a ResNet. Where a version of PyTorch has other ones, they stay, and so does the memory.
    """
    state, types = vars(torch.jit._state), vars(torch.jit._recursive)
    kept: list[tuple[dict[str, Any], str, Any]] = [
        (holder, name, holder[name])
        for holder, name in ((state, "_python_cu"), (types, "concrete_type_store"))
        if name in holder
    ]
    try:
        for holder, name, value in kept:
            holder[name] = type(value)()
        yield
    finally:
        for holder, name, value in kept:
            holder[name] = value
