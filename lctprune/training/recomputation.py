"""Keep less for the backward pass: run parts of a group forward a second time, just before their backward pass.

Chen et al. 2016, arXiv 1604.06174. The second run draws the same random numbers and leaves no trace: batch norm's
statistics advance once. So weights after a step are those without recomputation, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lctprune.measure.costs import saving_bytes
from lctprune.partition.segments import Segment, segments, whole

SAMPLES = 2  # on which memory is measured: batch norm needs a pair
_Buffer = tuple[nn.Module, str]


class RecomputedPart(NamedTuple):
    """Consecutive segments of a group, of which only the input is kept."""

    runs: list[Callable[[Tensor], Tensor]]
    changed: list[_Buffer]  # buffers that it writes
    read: list[_Buffer]  # those of them that its output depends on
    draws: bool  # whether it uses the random generator
    input_bytes: int  # per sample
    saved_bytes: int  # per sample, for the backward pass


class Recomputed:
    """A group in parts that are run again, with the group's signature.

    Args:
        parts: parts of the group, in order.
        is_last: whether the backward pass follows at once, so that running the last part again would save nothing.
    """

    def __init__(self, parts: Sequence[RecomputedPart], *, is_last: bool) -> None:
        self._parts, self._is_last = parts, is_last

    def __call__(self, x: Tensor) -> Tensor:
        """Run the group."""
        for part in self._parts:
            x = _run(part, x) if self._is_last and part is self._parts[-1] else _run_twice(part, x)
        return x


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


def measure(group: nn.Module, x: Tensor) -> tuple[list[RecomputedPart], Memory, Tensor]:
    """Divide a group so that recomputation keeps little, after a run on few samples that leaves the group unchanged.

    Args:
        group: group in training mode.
        x: input, [few samples, ...].

    Returns:
        Parts, their memory, and the group's output.
    """
    torch.manual_seed(0)
    one, expected = _measured_all([whole(group)], x)
    torch.manual_seed(0)
    fine, output = _measured_all(segments(group), x)
    if not torch.equal(output, expected) or _written(fine) != _written(one):  # what was traced is not all that it does
        fine = one
    plain = sum(part.saved_bytes for part in fine)
    parts = min((_packed(fine, limit) for limit in _limits(fine)), key=_peak)
    return parts, Memory(plain, sum(part.input_bytes for part in parts), _peak(parts)), expected.detach()


def _written(parts: Sequence[RecomputedPart]) -> set[tuple[int, str]]:
    """Identify the buffers that parts write."""
    return {(id(module), name) for part in parts for module, name in part.changed}


def _measured_all(given: Sequence[Segment], x: Tensor) -> tuple[list[RecomputedPart], Tensor]:
    """Run segments in a row; return a part for each, or for several where one overwrites its input, and the output."""
    fine: list[RecomputedPart] = []
    seen: set[int] = set()  # storages count once, so all of them are kept
    outputs = [x]
    for segment in given:
        part, overwritten = _measured(segment, outputs, seen)
        if overwritten and fine:  # its input would not be there for a second run
            fine[-1] = _joined([fine[-1], part])
        else:
            fine.append(part)
    return fine, outputs[-1]


def choose(memories: Sequence[Memory], *, one_by_one: bool) -> set[int]:
    """Choose the groups to recompute: those with the largest activations, as long as the peak of all falls.

    Args:
        memories: memory of each group.
        one_by_one: whether each group's backward pass comes before the next group runs (local critics).
    """
    chosen: set[int] = set()
    for index in sorted(range(len(memories)), key=lambda each: -memories[each].plain):
        more = chosen | {index}
        if _overall(memories, more, one_by_one) < _overall(memories, chosen, one_by_one):
            chosen = more
    return chosen


def _overall(memories: Sequence[Memory], chosen: set[int], one_by_one: bool) -> int:
    """Return the peak of all groups together."""
    peak = held = 0
    for index, memory in enumerate(memories):
        before = 0 if one_by_one else held
        peak = max(peak, before + (memory.peak if index in chosen else memory.plain))
        held += memory.kept if index in chosen else memory.plain
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
    return [_joined(run) for run in runs]


def _peak(parts: Sequence[RecomputedPart]) -> int:
    return sum(part.input_bytes for part in parts) + max(part.saved_bytes for part in parts)


def _joined(parts: Sequence[RecomputedPart]) -> RecomputedPart:
    return RecomputedPart(
        [run for part in parts for run in part.runs],
        [buffer for part in parts for buffer in part.changed],
        [buffer for part in parts for buffer in part.read],
        any(part.draws for part in parts),
        parts[0].input_bytes,
        sum(part.saved_bytes for part in parts),
    )


def _measured(segment: Segment, outputs: list[Tensor], seen: set[int]) -> tuple[RecomputedPart, bool]:
    """Run a segment on the last output and add its own; also tell whether it overwrites its input."""
    x = outputs[-1]
    buffers = segment.buffers
    ignored = {each.untyped_storage().data_ptr() for each in segment.parameters}
    before = _random_states(x.device)
    version = x._version
    with _on_copies(buffers) as copies, saving_bytes(seen, ignored=ignored) as count:
        old = [copy._version for copy in copies]
        outputs.append(segment.run(x))
        changed = [
            buffer
            for buffer, copy, each in zip(buffers, copies, old, strict=True)
            if buffer[0]._buffers[buffer[1]] is not copy or _was_changed(buffer[0], copy, each)
        ]
        saved = count()
    draws = any(not torch.equal(*pair) for pair in zip(before, _random_states(x.device), strict=True))
    read = [(module, name) for module, name in changed if not isinstance(module, _BatchNorm)]
    part = RecomputedPart([segment.run], changed, read, draws, x.nbytes // len(x), saved // len(x))
    return part, x._version != version


@contextmanager
def _on_copies(buffers: Sequence[_Buffer]) -> Iterator[list[Tensor]]:
    """Let modules read and write copies of their buffers inside the block."""
    copies = [_tensor(buffer).clone() for buffer in buffers]
    with _replaced(buffers, copies):
        yield copies


def _tensor(buffer: _Buffer) -> Tensor:
    module, name = buffer
    tensor = module._buffers[name]
    assert tensor is not None
    return tensor


def _was_changed(module: nn.Module, copy: Tensor, version: int) -> bool:
    # batch norm's own kernels do not count a version
    return copy._version != version or (isinstance(module, _BatchNorm) and module.training)


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _run(part: RecomputedPart, x: Tensor) -> Tensor:
    for run in part.runs:
        x = run(x)
    return x


def _run_twice(part: RecomputedPart, x: Tensor) -> Tensor:
    known = {(id(buffer[0]), buffer[1]): _tensor(buffer).clone() for buffer in part.read}

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(part, known)

    return checkpoint(  # type: ignore[no-any-return]
        _run, part, x, use_reentrant=False, context_fn=contexts, preserve_rng_state=part.draws, determinism_check="none"
    )


@contextmanager
def _again(part: RecomputedPart, known: dict[tuple[int, str], Tensor]) -> Iterator[None]:
    """Let the part write to copies of its buffers: as they were before its first run, where it reads them."""
    copies = []
    for buffer in part.changed:
        copy = known.get((id(buffer[0]), buffer[1]))
        copies.append(_tensor(buffer).clone() if copy is None else copy)
    with _replaced(part.changed, copies):
        yield


@contextmanager
def _replaced(buffers: Sequence[_Buffer], values: Sequence[Tensor]) -> Iterator[None]:
    own = [module._buffers[name] for module, name in buffers]
    try:
        for (module, name), value in zip(buffers, values, strict=True):
            module._buffers[name] = value
        yield
    finally:
        for (module, name), value in zip(buffers, own, strict=True):
            module._buffers[name] = value
