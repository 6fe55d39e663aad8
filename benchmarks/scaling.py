"""Model the time of a step of a decoupled pipeline by compute, bandwidth and latency of each group.

A process computes its group and critic, and the network carries h_i to the next process in the meantime; nobody waits
for a gradient. So a step takes as long as the slowest process or the slowest link; where processes share cores, as long
as those need for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Link(NamedTuple):
    """A connection between two processes."""

    bytes_per_s: float
    latency_s: float
    cpu_bytes_per_s: float = float("inf")  # at which a core copies what is sent, where a core does it


def step_seconds(
    compute_s: Sequence[float], sent_bytes: Sequence[float], link: Link, *, cores: int | None = None
) -> float:
    """Predict the seconds of a step in the steady state.

    Args:
        compute_s: seconds of one core that each process computes for.
        sent_bytes: bytes from each process but the last to the next.
        link: connection between any two processes.
        cores: number of cores that all processes share; None: each has its own.
    """
    busy = list(compute_s)
    for index, size in enumerate(sent_bytes):
        busy[index] += size / link.cpu_bytes_per_s
        busy[index + 1] += size / link.cpu_bytes_per_s
    wires = [link.latency_s + size / link.bytes_per_s for size in sent_bytes]
    return max([shared_seconds(busy, cores or len(busy)), *wires])


def shared_seconds(busy_s: Sequence[float], cores: int) -> float:
    """Predict the seconds until all of some processes, begun together, are done on cores that they share evenly."""
    seconds, done = 0.0, 0.0
    for finished, time in enumerate(sorted(busy_s)):
        active = len(busy_s) - finished
        seconds += (time - done) * max(1.0, active / cores)
        done = time
    return seconds


class Scale(NamedTuple):
    """What a number of groups gives."""

    groups: int
    seconds: float
    speedup: float  # over backpropagation in one process
    efficiency: float  # speedup / groups
    bound: str  # what a step waits for


def scale(network_s: float, critic_s: float, cut_bytes: float, groups: int, link: Link) -> Scale:
    """Predict a network cut into equal groups, each with a critic of the same cost, one process each.

    Args:
        network_s: seconds of a step of the network without critics, in one process.
        critic_s: seconds of a critic's part of a step.
        cut_bytes: bytes sent at each cut.
        groups: number of groups.
        link: connection between neighbours.
    """
    compute = network_s / groups + critic_s
    seconds = step_seconds([compute] * groups, [cut_bytes] * (groups - 1), link)
    speedup = network_s / seconds
    bound = "link" if seconds > compute else "critic" if critic_s > network_s / groups else "group"
    return Scale(groups, seconds, speedup, speedup / groups, bound)
