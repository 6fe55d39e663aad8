"""Keep less for the backward pass: run parts of a group forward a second time, just before their backward pass.

Chen et al. 2016, arXiv 1604.06174. The second run draws the same random numbers and leaves no trace: batch norm's
statistics advance once. So weights after a step are those without recomputation, to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lctprune.config.training import ResolvedTrainConfig
from lctprune.measure.costs import saving_bytes
from lctprune.partition.segments import Segment, segments, whole
from lctprune.training.recomputed_parts import Buffer, Memory, RecomputedPart, choose, divided, joined
from lctprune.utils.modules import packed

SAMPLES = 2  # on which memory is measured: batch norm needs a pair


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


def plan(
    groups: Sequence[nn.Module], inputs: Tensor, config: ResolvedTrainConfig, *, freed_after: Collection[int]
) -> dict[int, list[RecomputedPart]]:
    """Return the parts of the groups to recompute, by their position, after a look at what a few samples take.

    Args:
        groups: consecutive groups in training mode; only `.grad` and the random generator may change.
        inputs: input of the first group, [batch, ...].
        config: settings of the training.
        freed_after: groups, by position, whose backward pass comes before the next group runs.
    """
    measured, x = [], inputs[:SAMPLES].clone()
    for group in groups:
        parts, memory, x = measure(group, x)
        measured.append((parts, memory))
        x = packed(x)
    memories = [memory for _, memory in measured]
    chosen = set(range(len(measured)))
    if config.recompute == "auto":
        chosen = choose(memories, freed_after=freed_after)
    return {index: measured[index][0] for index in chosen}


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
    return *divided(fine), expected.detach()


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
            fine[-1] = joined([fine[-1], part])
        else:
            fine.append(part)
    return fine, outputs[-1]


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
def _on_copies(buffers: Sequence[Buffer]) -> Iterator[list[Tensor]]:
    """Let modules read and write copies of their buffers inside the block."""
    copies = [_tensor(buffer).clone() for buffer in buffers]
    with _replaced(buffers, copies):
        yield copies


def _tensor(buffer: Buffer) -> Tensor:
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

    return checkpoint(
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
def _replaced(buffers: Sequence[Buffer], values: Sequence[Tensor]) -> Iterator[None]:
    own = [module._buffers[name] for module, name in buffers]
    try:
        for (module, name), value in zip(buffers, values, strict=True):
            module._buffers[name] = value
        yield
    finally:
        for (module, name), kept in zip(buffers, own, strict=True):
            module._buffers[name] = kept
