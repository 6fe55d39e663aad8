"""Memory of training: what autograd saves for the backward pass, and this process's resident set."""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn


class Saved:
    """A tensor that autograd has saved; counts its storage while any such tensor lives."""

    held: dict[int, list[int]]  # address of a storage -> [how often it is saved, its bytes]
    now = peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        storage = tensor.untyped_storage()
        self.address = storage.data_ptr()
        entry = Saved.held.setdefault(self.address, [0, storage.nbytes()])
        entry[0] += 1
        if entry[0] == 1:
            Saved.now += entry[1]
            Saved.peak = max(Saved.peak, Saved.now)

    def __del__(self) -> None:
        entry = Saved.held[self.address]
        entry[0] -= 1
        if entry[0] == 0:
            Saved.now -= entry[1]
            del Saved.held[self.address]


def peak_saved_bytes(step: Callable[[], None], module: nn.Module) -> int:
    """Measure the peak bytes of saved tensors over one step, each storage once, parameters of the module left out."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    Saved.held, Saved.now, Saved.peak = {}, 0, 0

    def pack(tensor: Tensor) -> Saved | Tensor:
        return tensor if tensor.untyped_storage().data_ptr() in parameters else Saved(tensor)

    def unpack(saved: Saved | Tensor) -> Tensor:
        return saved.tensor if isinstance(saved, Saved) else saved

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        step()
    return Saved.peak


def peak_allocated_bytes(step: Callable[[], None], device: str = "cpu") -> int:
    """Measure the most bytes that a step holds beyond those before it: activations, gradients, buffers of kernels."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    assert profile.profiler is not None
    events = [each for each in profile.profiler.kineto_results.events() if each.name() == "[memory]"]
    ordered = sorted(events, key=lambda each: each.start_ns())
    return max(itertools.accumulate(each.nbytes() for each in ordered))


def rss_bytes() -> int:
    """Return this process's resident set, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_rss_bytes() -> int:
    """Return this process's resident set at its largest."""
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))  # in KiB; ru_maxrss survives an exec
    return int(peak.split()[1]) * 1024
