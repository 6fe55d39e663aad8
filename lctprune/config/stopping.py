"""Decide by the rows of metrics.csv which epoch is best, and whether a training has ended early."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence

from lctprune.config.metric import SCORE_COLUMNS, is_lower_better

BEST_SO_FAR = "best"  # column of metrics.csv: 1 where no epoch before was better, else 0


def has_stopped(rows: Sequence[Mapping[str, object]], patience: int | None, metric: str) -> bool:
    """Tell whether no exit has become better than ever before in the last `patience` epochs.

    Args:
        rows: rows of metrics.csv, one per epoch.
        patience: number of epochs; None for a training that goes on to its end.
        metric: shown name of the metric that exits are compared by.
    """
    if patience is None or len(rows) <= patience:
        return False
    latest = max((each.index(max(each)) for each in _scores(rows, metric)), default=0)  # epoch of the latest best score
    return len(rows) - 1 - latest >= patience


def is_best_so_far(rows: Sequence[Mapping[str, object]], metric: str) -> bool:
    """Tell whether no epoch before the last one was better, by the mean score of all exits.

    Args:
        rows: rows of metrics.csv, one per epoch.
        metric: shown name of the metric that exits are compared by.
    """
    means = [statistics.fmean(each) for each in zip(*_scores(rows, metric), strict=True)]
    return not means or means[-1] >= max(means)


def best_epoch(rows: Sequence[Mapping[str, object]]) -> int | None:
    """Return the number of the best epoch by rows of metrics.csv; None where an earlier version wrote them."""
    return max((int(str(row["epoch"])) for row in rows if str(row.get(BEST_SO_FAR)) == "1"), default=None)


def _scores(rows: Sequence[Mapping[str, object]], metric: str) -> list[list[float]]:
    """Return the scores of each exit by epochs, of which more is better."""
    column = re.compile(rf"exit\d+_{SCORE_COLUMNS[metric]}")
    sign = -1 if is_lower_better(metric) else 1
    return [[_score(row.get(name), sign) for row in rows] for name in rows[0] if column.fullmatch(name)]


def _score(value: object, sign: int) -> float:
    """Return the value of a cell, of which more is better; that of an undefined one is worst."""
    try:
        score = sign * float(str(value))
    except ValueError:  # not defined
        return -math.inf
    return -math.inf if math.isnan(score) else score
