"""Convert networks for images to TorchScript in the memory layout in which they are faster on this machine."""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.errors import ExportError
from lctprune.exporting.comparing import is_close
from lctprune.exporting.copying import copied
from lctprune.exporting.torchscript import to_torchscript

PLAIN, CHANNELS_LAST = "contiguous", "channels_last"
CALLS = 7  # timed, of each layout, in turns
NOTICEABLE_MS = 0.5  # calls that take less stay as they are
GAIN = 0.97  # channels last must take less of the plain layout's time


class Laid(NamedTuple):
    """A network in TorchScript, and its memory layout; None where inputs are no images."""

    scripted: torch.jit.ScriptModule
    layout: str | None


class ChannelsLast(nn.Module):
    """A copy of a network for images [batch, channels, height, width] that computes with channels last in memory."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Compute outputs, [batch, ...]."""
        outputs: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return outputs.contiguous()


def in_fastest_layout(network: nn.Module, example: Tensor, timed: Tensor) -> Laid:
    """Convert a network to TorchScript in the faster memory layout, measured on the CPU by calls in turns.

    Args:
        network: traceable module.
        example: input, [batch, ...].
        timed: input of the timed calls, [batch, ...].

    Raises:
        ExportError: the network cannot be traced.
    """
    plain = to_torchscript(network, example)
    if example.dim() != 4 or not example.is_floating_point() or example.is_cuda:
        return Laid(plain, None)
    try:
        least = min(_milliseconds(plain, timed) for _ in range(3))  # its first calls are compiled
        own = copied(network) if least >= NOTICEABLE_MS else None
        if own is None or not any(each.dim() == 4 for each in network.parameters()):
            return Laid(plain, PLAIN)
        other = to_torchscript(ChannelsLast(own), example)
        times = [(_milliseconds(plain, timed), _milliseconds(other, timed)) for _ in range(CALLS)]
        with torch.inference_mode():
            is_right = is_close(other(timed), plain(timed), type=next(network.parameters()).dtype)
    except (ExportError, RuntimeError):  # a view that the layout does not have; or a batch size that is a constant,
        return Laid(plain, PLAIN)  # which the comparison of the file will report
    is_faster = statistics.median(there / here for here, there in times) < GAIN
    return Laid(other, CHANNELS_LAST) if is_right and is_faster else Laid(plain, PLAIN)


def _milliseconds(scripted: torch.jit.ScriptModule, inputs: Tensor) -> float:
    """Measure the second of two calls: the first one fills the caches."""
    with torch.inference_mode():
        scripted(inputs)
        start = time.perf_counter()
        scripted(inputs)
    return 1e3 * (time.perf_counter() - start)
