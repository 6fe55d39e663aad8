"""Measure every exit of a network: how good it is, from one pass over a split, and what it costs on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lctprune.config.metric import is_lower_better
from lctprune.config.runtime import REDUCED, Runtime
from lctprune.errors import NetworkError
from lctprune.exporting.compiled import CompiledNetwork
from lctprune.exporting.reducing import ReducedNetwork
from lctprune.measure.answers import Answers
from lctprune.measure.costs import (
    count_known_flops,
    count_parameters,
    size_bytes,
    warn_of_unknown_operations,
)
from lctprune.measure.latency import Latency, is_steady
from lctprune.measure.runtimes import runtimes_for, time_networks
from lctprune.measure.scores import ExitScores
from lctprune.utils.batches import runs_alone
from lctprune.utils.modules import device_of

MAIN = "main network"  # name of the main network's candidate
Cost = Literal["flops", "macs", "parameters", "latency_ms", "size_bytes"]
Z_95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Quality and costs of one exit, a network that could be deployed.

    Attributes:
        exit: number of the exit, from 0; the last of the networks that were trained together is the main network, and
            higher numbers belong to networks that were added to a run later.
        name: name for people, such as "layer2", "layer2 x0.5", "layer2, fine-tuned" or "main network".
        accuracy: fraction of samples classified correctly, 0 to 1; without classes the score, or nan if it is the loss.
        loss: mean loss per sample.
        flops: FLOPs (multiplies and adds) per sample; None where an operation has no FLOP formula.
        macs: multiply-adds per sample, half of `flops`.
        parameters: number of parameters.
        latency_ms: median time per call, in milliseconds, see `measure_latency`; None where it was not measured.
        size_bytes: size of parameters and buffers, in bytes.
        samples: number of samples that `accuracy` and `loss` were measured on.
        latency_p5_ms: 5th percentile of the time per call, in milliseconds.
        latency_p95_ms: 95th percentile of the time per call, in milliseconds.
        latency_low_ms: lower end of the 95% interval of the median time, in milliseconds.
        latency_high_ms: upper end of the 95% interval of the median time, in milliseconds.
        latency_batch: samples per call.
        latency_runtime: runtime that the latency was measured in: torchscript, onnxruntime, openvino or inductor.
        latency_threads: number of CPU threads of the runtime; None where it is not known.
        precision: type of the weights, such as float32; int8, bf16 or fp16 where it was reduced after training.
        metric: what candidates are compared by: accuracy, balanced accuracy, macro F1, mAP, R2 or loss.
        accuracy_error: standard error of the score; None where it is a fraction of samples.
        origin: description of how the network came to be; empty where it was trained with the main network.
        batch_dependence: description of how outputs depend on the rest of the batch, in which case scores are of
            `latency_batch` samples per batch; empty where they do not.
        score: value of the metric: `accuracy`, or `loss`, where that is the metric.
        rmse: root mean squared error in the units of a regression's one target; None for all others.
        most_frequent: fraction of targets of the most frequent class, which a network that always answers it has right;
            None without classes.
        combined: ensemble or progressive for a network of several exits; empty for a single exit. FLOPs, MACs and
            latency of a progressive one are means over samples, which single samples exceed.
        answers: which of the samples were classified correctly, for paired tests; None where a sample has several
            targets or no class.
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
    latency_low_ms: float | None = None
    latency_high_ms: float | None = None
    latency_batch: int = 1
    metric: str = "accuracy"
    accuracy_error: float | None = None
    origin: str = ""
    batch_dependence: str = ""
    score: float | None = None
    latency_runtime: str = "torchscript"
    latency_threads: int | None = None
    precision: str = "float32"
    rmse: float | None = None
    most_frequent: float | None = None
    combined: str = ""
    answers: Answers | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if is_lower_better(self.metric):
            object.__setattr__(self, "score", self.loss)
        elif self.score is None or self.metric in ("accuracy", "R2"):
            object.__setattr__(self, "score", self.accuracy)

    @property
    def is_main(self) -> bool:
        """Whether this is the main network."""
        return self.name == MAIN

    @property
    def key(self) -> int | str:
        """Number of the exit, such as 1; for its form in a reduced precision a text, such as "1-int8"."""
        return f"{self.exit}-{self.precision}" if self.is_reduced else self.exit

    @property
    def is_reduced(self) -> bool:
        """Whether its precision was reduced after training."""
        return self.precision in REDUCED

    def cost(self, name: Cost) -> float | None:
        """Return a cost by its name; None where it is not known."""
        value: float | None = getattr(self, name)
        return value

    @property
    def merit(self) -> float:
        """What candidates are ordered by, the higher the better: the score, or minus the loss; -inf where it is nan.

        R2 is not defined where all targets are the same; there the loss decides.
        """
        if self.score is None or math.isnan(self.score):
            return -math.inf if self.metric != "R2" or math.isnan(self.loss) else -self.loss
        return -self.score if is_lower_better(self.metric) else self.score

    @property
    def score_interval(self) -> tuple[float, float]:
        """The 95% interval of the score: Wilson's of a fraction of samples, else the normal one."""
        score, highest = self.score or 0.0, math.inf if is_lower_better(self.metric) else 1.0
        lowest = -math.inf if self.metric == "R2" or is_lower_better(self.metric) else 0.0
        if self.accuracy_error is not None:
            half = Z_95 * self.accuracy_error
            return max(lowest, score - half), min(highest, score + half)
        if self.samples and self.metric == "accuracy":
            return wilson_interval(score, self.samples)
        return min(0.0, score), highest

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy, as of the score."""
        if self.accuracy == self.score:
            return self.score_interval
        return wilson_interval(self.accuracy, self.samples) if self.samples and self.accuracy >= 0 else (0.0, 1.0)


def exit_name(number: int, exits: int | None = None, places: Sequence[str] = ()) -> str:
    """Name a candidate: by the place where its network ends, if that has a name and no other exit ends there.

    Args:
        number: number of the exit.
        exits: number of networks that were trained together with it, whose last is the main network; None for a network
            that was added later.
        places: names of the cut points of the exits but the last.
    """
    if exits is not None and number == exits - 1:
        return MAIN
    place = places[number] if number < len(places) else ""
    is_name = places.count(place) == 1 and not place.isdigit()  # "1", of an nn.Sequential, reads as a number of an exit
    return place if is_name else f"exit {number}"


class ScoredExit(NamedTuple):
    """A network whose accuracy is known, and whose costs are to be measured."""

    exit: int
    name: str
    network: nn.Module
    scores: ExitScores
    position: int  # of its figures in `scores`
    origin: str = ""
    batch_dependence: str = ""


def measure_costs(
    exits: Sequence[ScoredExit],
    example: Tensor,
    *,
    latency_batch: int = 1,
    latency_repeats: int = 50,
    runtime: Runtime = "torchscript",
) -> list[Candidate]:
    """Measure what each network costs, the latencies of all in turns.

    Args:
        exits: networks and their scores.
        example: input, [batch, ...].
        latency_batch: samples per timed call.
        latency_repeats: number of timed calls per network; 0 leaves latency out.
        runtime: runtime that latencies are measured in, see `time_networks`.
    """
    networks = [each.network for each in exits]
    example = example.to(device_of(networks[-1]))
    latencies: Sequence[Latency | None] = [None] * len(networks)
    used: str = runtimes_for(runtime, is_cuda=example.is_cuda)[0]
    if latency_repeats:
        repeated = example[:1].expand(latency_batch, *example.shape[1:]).contiguous()
        timed = [index for index, each in enumerate(exits) if latency_batch > 1 or runs_alone(each.batch_dependence)]
        if timed:
            found = time_networks([networks[index] for index in timed], repeated, runtime, repeats=latency_repeats)
            used, measured = found.runtime, dict(zip(timed, found.latencies, strict=True))
            latencies = [measured.get(index) for index in range(len(exits))]
    full = [_in_full_precision(network) for network in networks]
    known = {id(network): count_known_flops(network, example) for network in dict.fromkeys(full)}
    counts = [known[id(network)] for network in full]
    warn_of_unknown_operations(counts, "the FLOPs of some exits are missing")
    candidates = []
    for each, latency, count, own in zip(exits, latencies, counts, full, strict=True):
        flops, scores = count.total, each.scores
        candidates.append(
            Candidate(
                exit=each.exit,
                name=each.name,
                accuracy=scores.accuracy[each.position],
                loss=scores.loss[each.position],
                flops=flops,
                macs=None if flops is None else flops // 2,
                parameters=count_parameters(own),
                latency_ms=latency and latency.median_ms,
                size_bytes=_stored_bytes(each.network),
                samples=scores.samples,
                latency_p5_ms=latency and latency.p5_ms,
                latency_p95_ms=latency and latency.p95_ms,
                latency_low_ms=latency and latency.low_ms,
                latency_high_ms=latency and latency.high_ms,
                latency_batch=latency_batch,
                metric=scores.metric,
                accuracy_error=None if scores.accuracy_error is None else scores.accuracy_error[each.position],
                origin=each.origin,
                batch_dependence=each.batch_dependence,
                score=scores.score[each.position] if scores.score else None,
                latency_runtime=used,
                latency_threads=torch.get_num_threads(),
                precision=precision_of(each.network),
                most_frequent=scores.most_frequent,
                answers=scores.answers[each.position] if scores.answers else None,
            )
        )
    return candidates


def _in_full_precision(network: nn.Module) -> nn.Module:
    """Return the network that FLOPs and parameters are counted of."""
    return network.original if isinstance(network, ReducedNetwork | CompiledNetwork) else network


def _stored_bytes(network: nn.Module) -> int:
    return network.size_bytes if isinstance(network, ReducedNetwork) else size_bytes(network)


def precision_of(network: nn.Module) -> str:
    """Name the type of a network's weights, such as float32; int8, bf16 or fp16 where it was reduced."""
    if isinstance(network, ReducedNetwork):
        return network.precision
    return str(next(network.parameters(), torch.empty(0)).dtype).removeprefix("torch.")


def left_out(candidates: Sequence[Candidate], costs: Iterable[str]) -> str:
    """Name the candidates that no budget on these costs can choose, because such a cost is not known; else ""."""
    parts = []
    for cost in costs:
        names = [candidate.name for candidate in candidates if getattr(candidate, cost) is None]
        if names:
            parts.append(f"{', '.join(names)}, whose {cost} was not measured")
    return f"left out: {'; '.join(parts)}" if parts else ""


def unsteady(candidates: Sequence[Candidate]) -> str:
    """Say by how much latencies vary, where they vary so much that a median tells little, see `is_steady`; else ""."""
    varying = []
    for each in candidates:
        median, low, high = each.latency_ms, each.latency_p5_ms, each.latency_p95_ms
        if median and low and high:
            ends = each.latency_low_ms or median, each.latency_high_ms or median
            varying += [] if is_steady(median, low, *ends) else [(high / low, each.name, low, high)]
    if not varying:
        return ""
    factor, name, low, high = max(varying)
    times = f"{factor:.{0 if factor >= 10 else 1}f}"
    return f"latencies vary by {times} times ({name}: {low:.3g} to {high:.3g} ms), so the machine is busy"


def candidate_of(candidates: Sequence[Candidate], exit: int, precision: str = "") -> Candidate:
    """Find the candidate of an exit by its number: the exit as it was trained, or in a reduced precision.

    Raises:
        NetworkError: there is none.
    """
    key = f"{exit}-{precision}" if precision in REDUCED else exit
    if found := [each for each in candidates if each.key == key]:
        return found[0]
    known = ", ".join(str(each.key) for each in sorted(candidates, key=lambda each: each.exit))
    raise NetworkError(f"exit {key} does not exist; there are exits {known}")


def wilson_interval(fraction: float, samples: int) -> tuple[float, float]:
    """Compute the 95% confidence interval of a binomial fraction (Wilson 1927)."""
    denominator = 1 + Z_95**2 / samples
    centre = (fraction + Z_95**2 / (2 * samples)) / denominator
    half = Z_95 / denominator * math.sqrt(fraction * (1 - fraction) / samples + Z_95**2 / (4 * samples**2))
    return max(0.0, centre - half), min(1.0, centre + half)
