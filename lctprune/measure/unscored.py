"""Measure what a network costs, where its accuracy does not matter yet."""

from __future__ import annotations

import math
import warnings

from torch import Tensor, nn

from lctprune.errors import NetworkWarning
from lctprune.measure.candidates import MAIN, Candidate, ScoredExit, measure_costs
from lctprune.measure.scores import ExitScores


def unscored(network: nn.Module, example: Tensor, *, has_latency: bool = False) -> Candidate:
    """Measure what a network costs, without its accuracy; costs that are not known are left out without a warning.

    Args:
        network: network on any device.
        example: input, [batch, ...].
        has_latency: whether latency is measured.
    """
    scores = ExitScores([math.nan], [math.nan], 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkWarning)
        return measure_costs(
            [ScoredExit(0, MAIN, network, scores, 0)], example, latency_repeats=50 if has_latency else 0
        )[0]
