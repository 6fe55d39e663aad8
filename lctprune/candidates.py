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
from lctprune.losses import Loss, default_loss, mean_squared_error
from lctprune.network import LocalCriticNetwork
from lctprune.splits import Split

Z_95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One exit: a network that could be deployed.

    Attributes:
        exit: its number, from 0; the last is the main network.
        name: for people.
        accuracy: share of samples classified right, 0 to 1; of a regression R2, the share of variance explained.
        loss: mean loss per sample.
        flops: multiplies and adds for one sample; None where an operation has no known formula.
        macs: multiply-adds for one sample, flops / 2.
        parameters: how many.
        latency_ms: median time of one call; None where it was not measured.
        size_bytes: of parameters and buffers.
        samples: how many samples `accuracy` and `loss` were measured on.
        latency_p5_ms, latency_p95_ms: 5th and 95th percentile.
        latency_batch: samples in one call.
        metric: what `accuracy` is: "accuracy" or "R2".
        accuracy_error: standard error of an R2.
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
    metric: str = "accuracy"
    accuracy_error: float | None = None

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95% interval of the accuracy: Wilson's, or of an R2 the normal one; 0 to 1 where nothing is known."""
        if self.accuracy_error is not None:
            half = Z_95 * self.accuracy_error
            return self.accuracy - half, min(1.0, self.accuracy + half)
        return wilson_interval(self.accuracy, self.samples) if self.samples else (0.0, 1.0)


class ExitScores(NamedTuple):
    """What one pass over a split says of each exit."""

    accuracy: list[float]
    loss: list[float]
    samples: int
    metric: str = "accuracy"
    accuracy_error: list[float] | None = None  # of an R2


def evaluate(
    network: LocalCriticNetwork,
    split: Split,
    example: Tensor,
    *,
    loss: Loss | None = None,
    batch_size: int = 256,
    latency_batch: int = 1,
    latency_repeats: int = 50,
) -> list[Candidate]:
    """Measure all exits of a network.

    Args:
        network: on any device; its mode is put back.
        split: the samples that accuracy and loss are measured on, such as `data.val`.
        example: an input, [batch, ...], for costs.
        loss: per sample; by default that of `default_loss`.
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
                metric=scores.metric,
                accuracy_error=None if scores.accuracy_error is None else scores.accuracy_error[exit],
            )
        )
    return candidates


def score_exits(
    network: LocalCriticNetwork,
    split: Split,
    *,
    loss: Loss | None = None,
    batch_size: int = 256,
    autocast: AbstractContextManager[object] | None = None,
) -> ExitScores:
    """Accuracy (of a regression: R2) and mean loss of every exit, from one pass over a split in evaluation mode.

    Raises:
        DataError: the split has no samples.
    """
    device = device_of(network)
    loss = loss or default_loss(split.targets)
    is_regression = split.targets.is_floating_point()
    score = mean_squared_error if is_regression else _is_right
    scores: list[Tensor] = []  # [exits, batch] each: squared errors, or whether the class is right
    losses: list[Tensor] = []
    with evaluation_mode(network), torch.inference_mode(), autocast or nullcontext():
        for inputs, targets in split.batches(batch_size):
            inputs, targets = inputs.to(device), targets.to(device)
            outputs = network.exits(inputs)
            scores.append(torch.stack([score(output, targets) for output in outputs]).double().cpu())
            losses.append(torch.stack([loss(output, targets) for output in outputs]).double().cpu())
    if not scores:
        raise DataError("the split has no samples to measure accuracy on")
    each, mean_losses = torch.cat(scores, 1), torch.cat(losses, 1).mean(1).tolist()
    samples = each.shape[1]
    if not is_regression:
        return ExitScores(each.mean(1).tolist(), mean_losses, samples)
    targets = split.targets.double().flatten(1) if split.targets.dim() > 1 else split.targets.double()[:, None]
    spread = (targets - targets.mean(0)).square().mean(1)  # [samples], whose mean is the variance
    variance = spread.mean().clamp(min=1e-12)
    unexplained = each.mean(1) / variance  # [exits], a ratio of two means: both vary with the samples
    deviations = (each - unexplained[:, None] * spread) / variance
    errors = (deviations.std(1) / math.sqrt(samples)).nan_to_num().tolist() if samples > 1 else [0.0] * len(each)
    return ExitScores((1 - unexplained).tolist(), mean_losses, samples, "R2", errors)


def _is_right(output: Tensor, target: Tensor) -> Tensor:
    return output.argmax(1) == target


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
