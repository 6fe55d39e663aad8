"""Compute the headline numbers of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lctprune.config.metric import score_text
from lctprune.measure.candidates import Candidate
from lctprune.measure.choice import not_faster
from lctprune.measure.selection import main_of
from lctprune.measure.units import engineering
from lctprune.reports.formats import percent


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A headline number and what it is."""

    value: str
    label: str


def headline_tiles(
    candidates: Sequence[Candidate], chosen: Candidate | None, test: Mapping[str, Any] | None
) -> list[Tile]:
    """Return the score and the costs of the chosen network, or of the main network if none was chosen.

    Args:
        candidates: measured candidates, at least one.
        chosen: chosen candidate, whose costs are compared with those of the main network.
        test: results of the chosen network on the test split, as for `report_page`.
    """
    main = main_of(candidates)
    subject = chosen or main
    tiles = [_score_tile(subject, test if chosen else None)]
    for cost, name in (("flops", "FLOPs"), ("parameters", "parameters"), ("latency_ms", "latency")):
        value, whole = getattr(subject, cost), getattr(main, cost)
        if value is None:
            continue
        write = "{:.3g} ms".format if cost == "latency_ms" else engineering
        if chosen and whole:
            label = f"of the main network's {name}: {write(value)} of {write(whole)}"
            if cost == "latency_ms" and chosen in not_faster(candidates):
                label += ", which is not shown to be less (the 95% intervals meet)"
            tiles.append(Tile(value=percent(value / whole, 0), label=label))
        else:
            tiles.append(Tile(value=write(value), label=f"{name} of {subject.name}"))
    return tiles


def _score_tile(subject: Candidate, test: Mapping[str, Any] | None) -> Tile:
    if test is None:
        label = f"validation {subject.metric} of {subject.name}"
        return Tile(value=score_text(subject.score, subject.metric), label=label)
    metric = test.get("metric", "accuracy")
    main = main_score(test)
    compared = "" if main is None else f", main network {score_text(main, metric)}"
    label = f"test {metric} of {subject.name}{compared}"
    return Tile(value=score_text(own_score(test), metric), label=label)


def own_score(test: Mapping[str, Any]) -> float | None:
    """Return the value of the metric on the test split; None where it is not defined, as R2 of targets all alike.

    An earlier version recorded it as the accuracy.
    """
    score = test.get("score")
    score = test["accuracy"] if score is None else score
    return None if score is None or math.isnan(score) else float(score)


def main_score(test: Mapping[str, Any]) -> float | None:
    """Return the value of the metric of the main network on the test split; None where it is not known."""
    score = test.get("main_score")
    return test.get("main_accuracy") if score is None else score
