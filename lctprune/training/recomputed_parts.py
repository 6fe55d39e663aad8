"""Which groups run a second time, and in which parts: pure functions of the bytes that each keeps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from torch import Tensor, nn

Buffer = tuple[nn.Module, str]


class RecomputedPart(NamedTuple):
    """Consecutive segments of a group, of which only the input is kept."""

    runs: list[Callable[[Tensor], Tensor]]
    changed: list[Buffer]  # buffers that it writes
    read: list[Buffer]  # those of them that its output depends on
    draws: bool  # whether it uses the random generator
    input_bytes: int  # per sample
    saved_bytes: int  # per sample, for the backward pass


class Memory(NamedTuple):
    """Bytes per sample that a group keeps for its backward pass.

    Attributes:
        plain: without recomputation.
        kept: with it, until the backward pass begins.
        peak: with it, during the backward pass.
    """

    plain: int
    kept: int
    peak: int


def divided(fine: Sequence[RecomputedPart]) -> tuple[list[RecomputedPart], Memory]:
    """Join consecutive segments of a group to the parts that keep least, and return what these keep."""
    parts = min((_packed(fine, limit) for limit in _limits(fine)), key=_peak)
    plain = sum(part.saved_bytes for part in fine)
    return parts, Memory(plain, sum(part.input_bytes for part in parts), _peak(parts))


def choose(memories: Sequence[Memory], *, freed_after: Collection[int]) -> set[int]:
    """Choose the groups to recompute: those with the largest activations, as long as the peak of all falls.

    Args:
        memories: memory of each group.
        freed_after: groups whose backward pass comes before the next group runs: with local critics, all.
    """
    chosen: set[int] = set()
    for index in sorted(range(len(memories)), key=lambda each: -memories[each].plain):
        more = chosen | {index}
        if _overall(memories, more, freed_after) < _overall(memories, chosen, freed_after):
            chosen = more
    return chosen


def _overall(memories: Sequence[Memory], chosen: set[int], freed_after: Collection[int]) -> int:
    """Return the peak of all groups together."""
    peak = held = 0
    for index, memory in enumerate(memories):
        peak = max(peak, held + (memory.peak if index in chosen else memory.plain))
        held = 0 if index in freed_after else held + (memory.kept if index in chosen else memory.plain)
    return peak


def _limits(parts: Sequence[RecomputedPart]) -> list[int]:
    """List sizes of a part worth trying: from the largest segment to the whole group."""
    total, largest = sum(part.saved_bytes for part in parts), max(part.saved_bytes for part in parts)
    return sorted({max(largest, total // count) for count in range(1, len(parts) + 1)})


def _packed(fine: Sequence[RecomputedPart], limit: int) -> list[RecomputedPart]:
    """Join consecutive segments up to a size."""
    runs: list[list[RecomputedPart]] = []
    for part in fine:
        if runs and sum(each.saved_bytes for each in runs[-1]) + part.saved_bytes <= limit:
            runs[-1].append(part)
        else:
            runs.append([part])
    return [joined(run) for run in runs]


def _peak(parts: Sequence[RecomputedPart]) -> int:
    return sum(part.input_bytes for part in parts) + max(part.saved_bytes for part in parts)


def joined(parts: Sequence[RecomputedPart]) -> RecomputedPart:
    """Join consecutive parts to one."""
    return RecomputedPart(
        [run for part in parts for run in part.runs],
        [buffer for part in parts for buffer in part.changed],
        [buffer for part in parts for buffer in part.read],
        any(part.draws for part in parts),
        parts[0].input_bytes,
        sum(part.saved_bytes for part in parts),
    )
