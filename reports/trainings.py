"""What the page shows of training: curves of the run, how it was compressed, and curves of the runs added to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas
from markupsafe import Markup

from lctprune.config.metric import score_text
from lctprune.config.run import RunConfig
from lctprune.measure.units import amount
from lctprune.reports.curves import QUANTITIES, score_quantity, training_curves, training_figure
from lctprune.reports.figures import inline_svg
from lctprune.reports.payload import curves_payload
from lctprune.reports.tables import metrics_frame
from lctprune.runs import Run
from lctprune.utils.wording import counted


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure, and what it shows for readers who do not see it."""

    label: str
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class FurtherRun:
    """A run that was added to the page's run.

    Attributes:
        folder: its folder in the run.
        run: the run.
        names: names of its exits among the candidates.
    """

    folder: str
    run: Run
    names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class FurtherTraining:
    """The curves of a run that was added, and the number of the first of them among all curves of the page."""

    title: str
    note: str
    drawings: Sequence[Drawing]
    first: int


def further_trainings(
    runs: Sequence[FurtherRun], metric: str, first: int
) -> tuple[list[FurtherTraining], list[dict[str, Any]]]:
    """Return the trainings of added runs, and the data of their curves for the page's script.

    Args:
        runs: the added runs.
        metric: name of the metric that candidates are compared by.
        first: number of curves that stand on the page before.
    """
    found, payload = list[FurtherTraining](), list[dict[str, Any]]()
    for each in runs:
        metrics, training = metrics_frame(each.run), each.run.config.training
        quantities, names = (score_quantity(metrics, metric), "train_loss"), dict(enumerate(each.names))
        drawings = training_drawings(
            metrics, quantities, f"Curves of {each.folder}", metric, names, prefix=f"further{len(found)}-"
        )
        origin = each.run.config.origin
        teacher = ", with the main network as the teacher" if origin and origin.distill else ""
        found.append(
            FurtherTraining(
                title=f"{each.folder}: {each.names[0]}" if len(each.names) == 1 else each.folder,
                note=f"{len(each.run.metrics)} of {counted(training.epochs, 'epoch')}{teacher}.",
                drawings=drawings,
                first=first + len(payload),
            )
        )
        payload += curves_payload(metrics, quantities, metric, names)
    return found, payload


def training_drawings(
    metrics: pandas.DataFrame,
    quantities: Sequence[str],
    label: str,
    metric: str,
    names: Mapping[int, str],
    *,
    prefix: str = "",
) -> list[Drawing]:
    """Draw the quantities that a run measured, one figure per quantity, with a prefix of the ids in them."""
    return [
        Drawing(
            label=f"{label}, by epoch: {QUANTITIES[quantity].format(metric=metric)}",
            svg=inline_svg(
                training_figure(metrics, quantities=[quantity], metric=metric, names=names), f"{prefix}{quantity}"
            ),
        )
        for quantity in quantities
        if not training_curves(metrics, quantity).empty
    ]


@dataclass(frozen=True, kw_only=True)
class CompressionStory:
    """How a network was compressed: in words, and by stages, as compress.json has them."""

    sentence: str
    stages: Sequence[Mapping[str, Any]]
    note: str


def compression_story(record: Mapping[str, Any] | None, config: RunConfig) -> CompressionStory | None:
    """Return what the page says of a compression; None for a run that is none.

    Args:
        record: content of compress.json.
        config: configuration of the run.
    """
    if record is None:
        return None
    given = config.given
    score = f", of validation {given.metric} {score_text(given.score, given.metric)}," if given else ""
    limits = " and ".join(amount(limit, cost) for cost, limit in record["budget"].items())
    return CompressionStory(
        sentence=f"A trained network{score} was to get to {limits}. Critics were trained on it while it stayed the "
        "same; then the best networks made narrower or fine-tuned.",
        stages=record["plan"],
        note=f"Cost: {record['unit']}.",
    )
