"""How consecutive groups in one process reach those in other processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Message(NamedTuple):
    """What one process tells another."""

    note: dict[str, Any]  # plain values
    tensors: list[Tensor]


class Link(Protocol):
    """Messages to and from one other process, in order.

    Attributes:
        seconds_waited: time spent waiting for messages to arrive or to leave.
    """

    seconds_waited: float

    def send(self, note: Mapping[str, Any] | None = None, tensors: Sequence[Tensor] = ()) -> None:
        """Send a message; may return before it has left."""

    def receive(self) -> Message:
        """Wait for the next message and return it."""

    def close(self) -> None:
        """Wait until everything has been sent."""


@dataclass(frozen=True, kw_only=True)
class Links:
    """Links from one process of a pipeline to others; a process that works alone has none.

    Attributes:
        source: where batches come from: the previous groups, or rank 0; None in rank 0, which reads the data.
        previous: where the first exit's losses go back to, and its output if critics distil.
        next: where the last group's output goes, and where the next exit's losses and output come from.
        first_ranks: from rank 0 to the first process of each further replica.
    """

    source: Link | None = None
    previous: Link | None = None
    next: Link | None = None
    first_ranks: tuple[Link, ...] = ()

    @property
    def all(self) -> set[Link]:
        """Every link, once."""
        return {link for link in (self.source, self.previous, self.next, *self.first_ranks) if link is not None}
