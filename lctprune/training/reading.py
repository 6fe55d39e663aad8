"""What goes to the device and comes back beside the steps, without either waiting for the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.data.splits import Batch, Split
from lctprune.utils.transfer import sent

STEPS_LATE = 2  # losses are read from CUDA when so many further steps are queued, so that its queue never runs empty


def prepared_on(split: Split, device: str) -> Split:
    """Return a split whose images are prepared on the device, where it can; what only looks like one stays as it is."""
    return split.on_device(device) if isinstance(split, Split) else split


def without_single(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Leave out a last batch of one sample, which has no batch statistics, unless all batches are such."""
    longest = 0
    for inputs, targets in batches:
        longest = max(longest, len(targets))
        if len(targets) > 1 or longest == 1:
            yield inputs, targets


def on_device(batches: Iterable[Batch], device: str, *, ahead: bool) -> Iterator[Batch]:
    """Yield batches on the device of training.

    Args:
        batches: batches on any device.
        device: device of training.
        ahead: whether the next batch may be asked for before a step on this one is taken. On CUDA it is then copied and
            prepared on a stream of its own while the device computes.
    """
    if torch.device(device).type != "cuda" or not ahead:
        for inputs, targets in batches:
            yield sent(inputs, device), sent(targets, device)
        return
    own, main = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
    own.wait_stream(main)  # for splits that lie on the device
    source = iter(batches)
    upcoming = _fetched(source, device, own)
    while upcoming is not None:
        current = upcoming
        main.wait_stream(own)
        for tensor in current:
            tensor.record_stream(main)
        upcoming = _fetched(source, device, own)
        yield current


def _fetched(source: Iterator[Batch], device: str, stream: torch.cuda.Stream) -> Batch | None:
    with torch.cuda.stream(stream):
        batch = next(source, None)
        return None if batch is None else (sent(batch[0], device), sent(batch[1], device))


class Reading(NamedTuple):
    """The mean losses of one step, and what the step was on.

    Attributes:
        step: number of the step in its epoch, from 0.
        measured: mean loss of each exit and the fraction of samples that count, [exits + 1], on the CPU.
        batch: inputs and targets.
    """

    step: int
    measured: Tensor
    batch: Batch


class LossReader:
    """Reads the losses of steps from the device, on CUDA some steps late and without stopping it.

    Args:
        device: device of training.
    """

    def __init__(self, device: str) -> None:
        self._is_cuda = torch.device(device).type == "cuda"
        self._queue: deque[tuple[Reading, torch.cuda.Event | None]] = deque()

    def add(self, index: int, measured: Tensor, batch: Batch) -> None:
        """Ask for the losses of a step.

        Args:
            index: number of the step in its epoch, from 0.
            measured: mean loss of each exit and the fraction of samples that count, [exits + 1], on the device.
            batch: inputs and targets of the step, which are kept until the losses are here.
        """
        event = None
        measured = measured.to("cpu", non_blocking=self._is_cuda)  # to pinned memory then
        if self._is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._queue.append((Reading(index, measured, batch), event))

    def ready(self, *, every: bool = False) -> Iterator[Reading]:
        """Yield, in order, the readings of steps after which `STEPS_LATE` others have been queued.

        Args:
            every: whether to wait for the latest steps too.
        """
        while len(self._queue) > (0 if every or not self._is_cuda else STEPS_LATE):
            reading, event = self._queue.popleft()
            if event is not None:
                event.synchronize()
            yield reading


def measured(losses: Sequence[Tensor], fraction: Tensor) -> Tensor:
    """Return what is read of a step, still on the device: mean loss of each exit, then a fraction, [exits + 1].

    Args:
        losses: loss of each sample at each exit, [exits] tensors of [batch].
        fraction: fraction of the samples that count, [].
    """
    return torch.stack([*(exit_losses.mean() for exit_losses in losses), fraction.to(losses[0])])
