"""Decide by the rows of metrics.csv whether a training has ended early."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from lctprune.config.metric import SCORE_COLUMNS, is_lower_better


def has_stopped(rows: Sequence[Mapping[str, object]], patience: int | None, metric: str) -> bool:
    """Tell whether no exit has become better than ever before in the last `patience` epochs.

    Args:
        rows: rows of metrics.csv, one per epoch.
        patience: number of epochs; None for a training that goes on to its end.
        metric: shown name of the metric that exits are compared by.
    """
    if patience is None or len(rows) <= patience:
        return False
    column = re.compile(rf"exit\d+_{SCORE_COLUMNS[metric]}")
    sign = -1 if is_lower_better(metric) else 1
    scores = ([_score(row[name], sign) for row in rows] for name in rows[0] if column.fullmatch(name))
    latest = max((each.index(max(each)) for each in scores), default=0)  # epoch of the latest best score
    return len(rows) - 1 - latest >= patience


def _score(value: object, sign: int) -> float:
    """Return the value of a cell, of which more is better; that of an undefined one is worst."""
    try:
        score = sign * float(str(value))
    except ValueError:  # not defined
        return -math.inf
    return -math.inf if math.isnan(score) else score
