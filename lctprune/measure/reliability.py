"""Compare how sure a network is with how often it is right."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BINS = 10


class Reliability(NamedTuple):
    """A reliability diagram (Guo et al. 2017, "On Calibration of Modern Neural Networks").

    Attributes:
        samples: number of samples whose confidence is in each of the bins, which divide 0 to 1 evenly.
        confidence: mean confidence in each bin; None for an empty one.
        accuracy: fraction of right answers in each bin; None for an empty one.
        error: expected calibration error: mean |accuracy - confidence| of the bins, weighted by their samples.
    """

    samples: list[int]
    confidence: list[float | None]
    accuracy: list[float | None]
    error: float


def reliability(is_right: Tensor, confidence: Tensor, bins: int = BINS) -> Reliability:
    """Compute a reliability diagram.

    Args:
        is_right: whether each answer is right, bool [samples].
        confidence: probability that the network gave its answer, 0 to 1, [samples].
        bins: number of bins; a confidence on an edge is in the lower one.
    """
    places = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    samples = places.bincount(minlength=bins)
    sure = places.bincount(confidence.double(), minlength=bins)
    right = places.bincount(is_right.double(), minlength=bins)
    error = float((sure - right).abs().sum() / max(1, len(confidence)))
    means = [torch.where(samples > 0, each / samples.clamp(min=1), torch.nan).tolist() for each in (sure, right)]
    known = [[None if value != value else value for value in mean] for mean in means]
    return Reliability(samples.tolist(), known[0], known[1], error)


def confusion_matrix(targets: Tensor, answers: Tensor, classes: int) -> Tensor:
    """Count the answers to the samples of each class.

    Args:
        targets: class numbers, [samples].
        answers: numbers of the classes that won, [samples].
        classes: number of classes.

    Returns:
        Counts, a row for each target and a column for each answer, [classes, classes].
    """
    return (targets * classes + answers).bincount(minlength=classes**2).reshape(classes, classes)
