"""What is reported of an epoch: put together from all processes, and as a row of metrics.csv."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lctprune.config.history import Row
from lctprune.config.metric import SCORE_COLUMNS
from lctprune.config.stopping import BEST_SO_FAR, is_best_so_far
from lctprune.data.dataset import Data
from lctprune.losses import Loss
from lctprune.training.agreement import GroupAgreement
from lctprune.training.distributed.pipeline import Pipeline
from lctprune.training.stage import Stage

DIAGNOSTICS = ("cosine", "gradient_norm", "gap")  # fields of GroupAgreement that metrics.csv records


class EpochReport(NamedTuple):
    """The figures of one epoch, one per exit."""

    losses: list[float]
    val_accuracy: list[float]
    val_loss: list[float]
    val_score: list[float]
    metric: str


def epoch_report(stage: Stage, pipeline: Pipeline, data: Data | None, loss: Loss | None) -> EpochReport | None:
    """Evaluate, and put together in rank 0 what all processes know."""
    note: dict[str, Any] = {"means": stage.means}
    if pipeline.replica == 0:
        scores = stage.evaluate(data.val if data else None, loss)
        note |= {"accuracy": scores.accuracy, "loss": scores.loss, "score": scores.score, "metric": scores.metric}
    notes = pipeline.gather(note)
    if notes is None:
        return None
    scored = [each for each in notes if "loss" in each]  # only the first replica evaluates
    lines = [itertools.chain.from_iterable(each["means"] for each in line) for line in chunks(notes, len(scored))]
    return EpochReport(
        [statistics.fmean(means) for means in zip(*lines, strict=True)],
        [value for each in scored for value in each["accuracy"]],
        [value for each in scored for value in each["loss"]],
        [value for each in scored for value in each["score"]],
        scored[0]["metric"],
    )


def chunks(notes: list[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Cut what all processes sent into the parts of each replica's pipeline."""
    return (notes[start : start + size] for start in range(0, len(notes), size))


def metrics_row(epoch: int, report: EpochReport, *, lr: float, images_per_s: float) -> Row:
    """Make the row of metrics.csv of an epoch."""
    row: Row = {
        "epoch": epoch,
        "lr": lr,
        "images_per_s": round(images_per_s, 2),
    }
    scores = {SCORE_COLUMNS[report.metric]: report.val_score}
    if not any(map(math.isnan, report.val_accuracy)) and report.val_accuracy != report.val_score:
        scores["val_accuracy"] = report.val_accuracy
    columns = {"train_loss": report.losses} | scores | {"val_loss": report.val_loss}
    for exit in range(len(report.losses)):
        row |= {f"exit{exit}_{name}": round(values[exit], 6) for name, values in columns.items()}
    return row


def mark_best(rows: Sequence[Row], metric: str) -> None:
    """Say in the last row whether it is the best so far, unless an earlier version began the rows."""
    if len(rows) == 1 or BEST_SO_FAR in rows[0]:
        rows[-1][BEST_SO_FAR] = int(is_best_so_far(rows, metric))


def agreement_columns(agreements: Sequence[GroupAgreement]) -> Row:
    """Make columns of metrics.csv, to six digits, as norms may become very small; an undefined cosine is left empty."""
    return {
        f"exit{exit}_{name}": "" if math.isnan(value) else f"{value:.6g}"
        for exit, agreement in enumerate(agreements)
        for name, value in agreement._asdict().items()
        if name in DIAGNOSTICS
    }
