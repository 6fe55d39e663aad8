"""The error of a regression in the units of its target, which training standardises."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from lctprune.config.run import DataRecord
from lctprune.measure.candidates import Candidate


def root_mean_squared_error(loss: float, data: DataRecord | None) -> float | None:
    """Return the root of the mean squared error, in the target's units; None without one standardised target.

    Args:
        loss: mean squared error of the standardised target.
        data: record of the run's data.
    """
    if data is None or data.target is None or len(data.target.std) != 1 or not math.isfinite(loss) or loss < 0:
        return None
    return math.sqrt(loss) * data.target.std[0]


def in_target_units(candidates: Sequence[Candidate], data: DataRecord | None) -> list[Candidate]:
    """Return candidates with their `rmse`, where the data has a target in units of its own."""
    return [dataclasses.replace(each, rmse=root_mean_squared_error(each.loss, data)) for each in candidates]
