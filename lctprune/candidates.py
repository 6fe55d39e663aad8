"""Measure every exit of a network: how good it is, from one pass over a split, and what it costs on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.costs import (
    Latency,
    count_flops,
    count_parameters,
    device_of,
    evaluation_mode,
    measure_latency,
    size_bytes,
)
from lctprune.errors import DataError, UnknownOperationError
from lctprune.exporting import to_torchscript
from lctprune.losses import Loss, cross_entropy
from lctprune.network import LocalCriticNetwork
from lctprune.splits import Split

Z_95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One exit: a network that could be deployed.

    Attributes:
        exit: its number, from 0; the last is the main network.
        name: for people.
        accuracy: share of samples classified right, 0 to 1.
        loss: mean loss per sample.
        flops: multiplies and adds for one sample; None where an operation has no known formula.
        macs: multiply-adds for one sample, flops / 2.
        parameters: how many.
        latency_ms: median time of one call; None where it was not measured.
        size_bytes: of parameters and buffers.
        samples: how many samples `accuracy` and `loss` were measured on.
        latency_p5_ms, latency_p95_ms: 5th and 95th percentile.
        latency_batch: samples in one call.
    """

    exit: int
    name: str
    accuracy: float
    loss: float
    flops: int | None
    macs: int | None
    parameters: int
    latency_ms: float | None
    size_bytes: int
    samples: int | None = None
    latency_p5_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_batch: int = 1

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy; 0 to 1 where the number of samples is not known."""
        return wilson_interval(self.accuracy, self.samples) if self.samples else (0.0, 1.0)


class ExitScores(NamedTuple):
    """What one pass over a split says of each exit."""

    accuracy: list[float]
    loss: list[float]
    samples: int


def evaluate(
    network: LocalCriticNetwork,
    split: Split,
    example: Tensor,
    *,
    loss: Loss = cross_entropy,
    batch_size: int = 256,
    latency_batch: int = 1,
    latency_repeats: int = 50,
) -> list[Candidate]:
    """Measure all exits of a network.

    Args:
        network: on any device; its mode is put back.
        split: the samples that accuracy and loss are measured on, such as `data.val`.
        example: an input, [batch, ...], for costs.
        loss: per sample.
        batch_size: of the pass over the split, in which each group runs once a batch.
        latency_batch: samples in the call whose latency is measured.
        latency_repeats: timed calls of each exit, in turns; 0 leaves latency out.

    Raises:
        DataError: the split has no samples.
    """
    scores = score_exits(network, split, loss=loss, batch_size=batch_size)
    example = example.to(device_of(network))
    subnetworks = [network.subnetwork(exit) for exit in range(len(network.groups))]
    latencies: Sequence[Latency | None] = [None] * len(subnetworks)
    if latency_repeats:
        repeated = example[:1].expand(latency_batch, *example.shape[1:]).contiguous()
        deployed = [to_torchscript(subnetwork, repeated) for subnetwork in subnetworks]
        latencies = measure_latency(deployed, repeated, repeats=latency_repeats)
    candidates = []
    for exit, (subnetwork, latency) in enumerate(zip(subnetworks, latencies, strict=True)):
        flops = _known_flops(subnetwork, example)
        candidates.append(
            Candidate(
                exit=exit,
                name="main network" if exit == len(subnetworks) - 1 else f"exit {exit}",
                accuracy=scores.accuracy[exit],
                loss=scores.loss[exit],
                flops=flops,
                macs=None if flops is None else flops // 2,
                parameters=count_parameters(subnetwork),
                latency_ms=latency and latency.median_ms,
                size_bytes=size_bytes(subnetwork),
                samples=scores.samples,
                latency_p5_ms=latency and latency.p5_ms,
                latency_p95_ms=latency and latency.p95_ms,
                latency_batch=latency_batch,
            )
        )
    return candidates


def score_exits(
    network: LocalCriticNetwork,
    split: Split,
    *,
    loss: Loss = cross_entropy,
    batch_size: int = 256,
    autocast: AbstractContextManager[object] | None = None,
) -> ExitScores:
    """Accuracy and mean loss of every exit, from one pass over a split in evaluation mode.

    Raises:
        DataError: the split has no samples.
    """
    device = device_of(network)
    exits = len(network.groups)
    correct, total_loss = torch.zeros(exits, dtype=torch.long), torch.zeros(exits, dtype=torch.double)
    samples = 0
    with evaluation_mode(network), torch.inference_mode(), autocast or nullcontext():
        for inputs, targets in split.batches(batch_size):
            inputs, targets = inputs.to(device), targets.to(device)
            outputs = network.exits(inputs)
            correct += torch.stack([(output.argmax(1) == targets).sum() for output in outputs]).cpu()
            total_loss += torch.stack([loss(output, targets).double().sum() for output in outputs]).cpu()
            samples += len(targets)
    if samples == 0:
        raise DataError("the split has no samples to measure accuracy on")
    return ExitScores((correct / samples).tolist(), (total_loss / samples).tolist(), samples)


def wilson_interval(share: float, samples: int) -> tuple[float, float]:
    """95% confidence interval of a binomial share (Wilson 1927)."""
    denominator = 1 + Z_95**2 / samples
    centre = (share + Z_95**2 / (2 * samples)) / denominator
    half = Z_95 / denominator * math.sqrt(share * (1 - share) / samples + Z_95**2 / (4 * samples**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _known_flops(network: nn.Module, example: Tensor) -> int | None:
    try:
        return count_flops(network, example)
    except UnknownOperationError:
        return None
