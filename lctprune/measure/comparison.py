"""Put the candidates of several runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lctprune.errors import ConfigError
from lctprune.measure.candidates import Candidate
from lctprune.measure.paired import Pairing, pairing
from lctprune.measure.selection import pareto_front


class Compared(NamedTuple):
    """A candidate among those of several runs.

    Attributes:
        run: name of its run.
        candidate: the candidate.
        on_front: whether none of any run is at least as good with no more FLOPs, and better in one of the two.
        against_best: the best of all runs beside this one, on the same samples; None for another split or metric.
    """

    run: str
    candidate: Candidate
    on_front: bool
    against_best: Pairing | None


def compared(runs: Mapping[str, Sequence[Candidate]]) -> list[Compared]:
    """Compare the candidates of several runs; they keep their order.

    Args:
        runs: candidates by the name of the run.

    Raises:
        ConfigError: the runs' candidates are compared by different metrics, or there are none.
    """
    together = [(name, each) for name, candidates in runs.items() for each in candidates]
    if not together:
        raise ConfigError("there are no candidates to compare; name at least one run")
    metrics = {each.metric: name for name, each in together}
    if len(metrics) > 1:
        found = " and ".join(f"{name} is measured by {metric}" for metric, name in metrics.items())
        raise ConfigError(f"runs of different metrics cannot be compared: {found}; train with the same `metric`")
    front = pareto_front([each for _, each in together])
    best = max((each for _, each in together), key=lambda each: each.merit)
    is_paired = best.metric == "accuracy"
    return [
        Compared(name, each, any(each is other for other in front), pairing(best, each) if is_paired else None)
        for name, each in together
    ]
