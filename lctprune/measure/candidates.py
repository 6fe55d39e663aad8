"""Measure every exit of a network: how good it is, from one pass over a split, and what it costs on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from lctprune.data.splits import Split
from lctprune.errors import NetworkError, UnknownOperationError
from lctprune.exporting import to_torchscript
from lctprune.losses import Loss
from lctprune.measure.costs import Latency, count_flops, count_parameters, measure_latency, size_bytes
from lctprune.measure.scores import ExitScores, score_exits
from lctprune.network import LocalCriticNetwork
from lctprune.utils.modules import device_of

MAIN = "main network"
Z_95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One exit: a network that could be deployed.

    Attributes:
        exit: its number, from 0; of the networks that were trained together the last is the main network, and numbers
            beyond it are of networks that were added to a run later.
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
        origin: how it came to be, where it was not trained with the main network.
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
    origin: str = ""

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95% interval of the accuracy: Wilson's, or of an R2 the normal one; 0 to 1 where nothing is known."""
        if self.accuracy_error is not None:
            half = Z_95 * self.accuracy_error
            return self.accuracy - half, min(1.0, self.accuracy + half)
        return wilson_interval(self.accuracy, self.samples) if self.samples else (0.0, 1.0)


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
    last = len(network.groups) - 1
    exits = [
        ScoredExit(exit, MAIN if exit == last else f"exit {exit}", network.subnetwork(exit), scores, exit)
        for exit in range(last + 1)
    ]
    return measure_costs(exits, example, latency_batch=latency_batch, latency_repeats=latency_repeats)


class ScoredExit(NamedTuple):
    """A network whose accuracy is known, and whose costs are to be measured."""

    exit: int
    name: str
    network: nn.Module
    scores: ExitScores
    place: int  # of its figures in `scores`
    origin: str = ""


def measure_costs(
    exits: Sequence[ScoredExit], example: Tensor, *, latency_batch: int = 1, latency_repeats: int = 50
) -> list[Candidate]:
    """What each network costs; latencies of all in turns. Arguments are those of `evaluate`."""
    networks = [each.network for each in exits]
    example = example.to(device_of(networks[-1]))
    latencies: Sequence[Latency | None] = [None] * len(networks)
    if latency_repeats:
        repeated = example[:1].expand(latency_batch, *example.shape[1:]).contiguous()
        deployed = [to_torchscript(network, repeated) for network in networks]
        latencies = measure_latency(deployed, repeated, repeats=latency_repeats)
    candidates = []
    for each, latency in zip(exits, latencies, strict=True):
        flops, scores = _known_flops(each.network, example), each.scores
        candidates.append(
            Candidate(
                exit=each.exit,
                name=each.name,
                accuracy=scores.accuracy[each.place],
                loss=scores.loss[each.place],
                flops=flops,
                macs=None if flops is None else flops // 2,
                parameters=count_parameters(each.network),
                latency_ms=latency and latency.median_ms,
                size_bytes=size_bytes(each.network),
                samples=scores.samples,
                latency_p5_ms=latency and latency.p5_ms,
                latency_p95_ms=latency and latency.p95_ms,
                latency_batch=latency_batch,
                metric=scores.metric,
                accuracy_error=None if scores.accuracy_error is None else scores.accuracy_error[each.place],
                origin=each.origin,
            )
        )
    return candidates


def candidate_of(candidates: Sequence[Candidate], exit: int) -> Candidate:
    """The candidate of an exit, by its number.

    Raises:
        NetworkError: there is none.
    """
    for candidate in candidates:
        if candidate.exit == exit:
            return candidate
    known = ", ".join(str(candidate.exit) for candidate in sorted(candidates, key=lambda each: each.exit))
    raise NetworkError(f"exit {exit} does not exist; there are exits {known}")


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
