"""Measure latency on this machine, also where other programs use it."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.utils.steps import stepping
from lctprune.utils.transfer import synchronize

MAX_ROUNDS, MAX_SECONDS = 6, 10.0  # of repeated measurements of latency
SHORT_MS = 20.0  # calls whose time depends on what the caches hold
TIMING = "Measuring latencies, each network in turns"  # for people
STEADY, PRECISE = 1.25, 0.05  # largest median / p5 of a quiet machine; wanted half-width of the median's interval


class Latency(NamedTuple):
    """Time per call in milliseconds.

    Attributes:
        median_ms: median.
        p5_ms: 5th percentile.
        p95_ms: 95th percentile.
        low_ms: lower end of the median's 95% interval.
        high_ms: upper end of the median's 95% interval.
    """

    median_ms: float
    p5_ms: float
    p95_ms: float
    low_ms: float
    high_ms: float

    @property
    def is_steady(self) -> bool:
        """Whether the machine was quiet enough, and the median is known well enough."""
        return is_steady(self.median_ms, self.p5_ms, self.low_ms, self.high_ms)


def is_steady(median_ms: float, p5_ms: float, low_ms: float, high_ms: float) -> bool:
    """Whether a median is known well enough, and not much above the quickest calls, as it is on a busy machine.

    A few slow calls, which any machine has, change neither.

    Args:
        median_ms: median of the times per call, in milliseconds, as the others are.
        p5_ms: 5th percentile.
        low_ms: lower end of the median's 95% interval.
        high_ms: upper end of it.
    """
    return median_ms <= STEADY * p5_ms and high_ms - low_ms <= 2 * PRECISE * median_ms


def measure_latency(
    networks: Sequence[Callable[[Tensor], object]], example: Tensor, *, repeats: int = 50, warmup: int = 5
) -> list[Latency]:
    """Measure the latency of networks, in turns, so that whatever slows the machine down affects all of them alike.

    Of several networks, short calls are made twice, and the second one counts, as in a program that uses one of them.
    A round of calls is repeated while a median is more than 1.25 times the 5th percentile or not known to 5%, up to
    6 rounds and 10 seconds. The round with the lowest medians counts: other programs only ever add time.

    Args:
        networks: callables, in the form in which they will be deployed.
        example: input of every call, [batch, ...], on the networks' device.
        repeats: number of timed calls per network and round.
        warmup: number of untimed calls per network at the start.

    Returns:
        One `Latency` per network, of the quietest round.
    """
    end = time.perf_counter() + MAX_SECONDS
    with torch.inference_mode():
        for _ in range(warmup):
            for network in networks:
                _milliseconds(network, example)
        rounds = [_round(networks, example, repeats, TIMING)]
        while len(rounds) < MAX_ROUNDS and time.perf_counter() < end and not all(each.is_steady for each in rounds[-1]):
            rounds.append(_round(networks, example, repeats, f"{TIMING}, round {len(rounds) + 1} as they vary"))
    return min(rounds, key=lambda latencies: sum(each.median_ms for each in latencies))


def _round(networks: Sequence[Callable[[Tensor], object]], example: Tensor, repeats: int, what: str) -> list[Latency]:
    time_call = _milliseconds if len(networks) == 1 else _warm_milliseconds
    passes = stepping(range(repeats), lambda _: what, count=repeats)
    times = [[time_call(network, example) for network in networks] for _ in passes]
    return [_summary(list(each)) for each in zip(*times, strict=True)]


def _warm_milliseconds(network: Callable[[Tensor], object], example: Tensor) -> float:
    """Measure a call after another one of the same network where it is short: the others have emptied its caches."""
    first = _milliseconds(network, example)
    return first if first > SHORT_MS else _milliseconds(network, example)


def _milliseconds(network: Callable[[Tensor], object], example: Tensor) -> float:
    """Measure one call; on CUDA by its events, from an idle device to the end of the last kernel."""
    if not example.is_cuda:
        start = time.perf_counter()
        network(example)
        synchronize(example.device)
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin.record()
    network(example)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def _summary(times: list[float]) -> Latency:
    """Summarise the times of one network; the interval of the median is that of order statistics."""
    if len(times) == 1:
        return Latency(*times * 5)
    twentieths = statistics.quantiles(times, n=20, method="inclusive")
    cumulated = itertools.accumulate(math.comb(len(times), k) for k in range(len(times)))
    outside = sum(count <= 0.025 * 2 ** len(times) for count in cumulated)  # of the binomial counts of times below it
    low = max(0, outside - 1)
    ordered = sorted(times)
    return Latency(statistics.median(times), twentieths[0], twentieths[-1], ordered[low], ordered[-1 - low])
