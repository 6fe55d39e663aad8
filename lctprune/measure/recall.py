"""The recall of each class, as candidates.json records it beside the candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lctprune.measure.candidates import ScoredExit

DECIMALS = 6


class ClassRecall(NamedTuple):
    """The recall of each class, in the order of the labels.

    Attributes:
        samples: number of validation samples of each class; of targets, where a sample has several.
        exits: recall of each class by the number of the exit; None for a class without samples.
    """

    samples: list[int]
    exits: dict[int, list[float | None]]


def recall_record(exits: Sequence[ScoredExit]) -> dict[str, Any] | None:
    """Return the recall of each class as plain JSON values; None where targets are no classes."""
    of_classes = [(each.exit, each.scores.recall[each.position]) for each in exits if each.scores.recall is not None]
    if not of_classes:
        return None
    rounded = {
        str(exit): [None if value is None else round(value, DECIMALS) for value in recalls]
        for exit, recalls in of_classes
    }
    return {"class_samples": exits[0].scores.class_samples, "exits": rounded}
