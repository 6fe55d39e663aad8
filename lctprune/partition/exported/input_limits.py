"""The sizes of inputs for which a network that torch.export traced is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lctprune.errors import NetworkError

LARGE = 2**31  # sizes above are no limit


class InputLimits:
    """The sizes of inputs for which a traced network is right; a part of its graph.

    Args:
        name: name of the network, for messages.
        limits: least and largest size of each dimension but the first; None where there is no largest.
    """

    def __init__(self, name: str, limits: Sequence[tuple[int, int | None]]) -> None:
        self.__name__ = "input_limits"
        self.name, self.limits = name, limits

    def __call__(self, x: Tensor) -> None:
        """Refuse an input of another size.

        Raises:
            NetworkError: the input has such a size.
        """
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call] # sizes are tensors then
            return
        sizes = x.shape[1:]
        if len(sizes) != len(self.limits) or any(
            size < least or (most is not None and size > most)
            for size, (least, most) in zip(sizes, self.limits, strict=False)
        ):
            wanted = ", ".join(_range(*each) for each in self.limits)
            raise NetworkError(
                f"{self.name} was traced for inputs of [batch, {wanted}], and got {list(x.shape)}; build it with an "
                "example of this size"
            )

    def __repr__(self) -> str:
        return self.__name__


def _range(least: int, most: int | None) -> str:
    if least == most:
        return str(least)
    return f"{least} or more" if most is None else f"{least} to {most}"


def limits_of(program: ExportedProgram, shape: Sequence[Any]) -> list[tuple[int, int | None]]:
    """Return the least and the largest size of each dimension but the first."""
    found: list[tuple[int, int | None]] = []
    for size in shape[1:]:
        if isinstance(size, int):
            found.append((size, size))
        else:
            limits = program.range_constraints.get(size.node.expr)
            least, most = (1, LARGE) if limits is None else (int(limits.lower), limits.upper)
            least = 1 if least == 2 else least  # torch.export leaves 1 out; `require_same` tries it
            found.append((least, int(most) if most < LARGE else None))
    return found
