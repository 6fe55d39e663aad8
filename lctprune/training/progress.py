"""The progress of a training, as its caller sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a training: one after every step, and one after every epoch, with `val_accuracy`.

    Attributes:
        epoch: number of the epoch, from 1.
        epochs: number of epochs of the training.
        step: number of the step in the epoch, from 1.
        steps: number of steps per epoch.
        losses: mean training loss of each exit in this epoch so far; with several processes, those of later exits come
            some steps late, at first not at all.
        images_per_s: samples per second in this epoch so far, without evaluation.
        seconds_left: seconds until training ends, at this pace.
        val_accuracy: accuracy of each exit on the validation split, once the epoch is over; see `Candidate.accuracy`.
        val_score: value of the metric of each exit on the validation split, once the epoch is over.
        val_loss: mean loss of each exit on the validation split, once the epoch is over.
        metric: name of the metric, once the epoch is over.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: list[float]
    images_per_s: float
    seconds_left: float
    val_accuracy: list[float] | None = None
    val_score: list[float] | None = None
    val_loss: list[float] | None = None
    metric: str = ""
