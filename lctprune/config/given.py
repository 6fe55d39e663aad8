"""The record of the network that a run was given, before any training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Given:
    """Scores of the network that a run was given as weights, on the validation split, before training.

    Attributes:
        metric: shown name of the metric.
        score: value of the metric; None where it is not defined.
        accuracy: accuracy, as of a candidate; None without one.
        loss: mean loss per sample.
        samples: number of samples.
        new: names of parameters that the weights did not contain, those of a classifier.
    """

    metric: str
    score: float | None
    accuracy: float | None
    loss: float
    samples: int
    new: tuple[str, ...] = ()
