"""Compute what the page shows of a network's answers: confusions, reliability, predictions and pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lctprune.data.preprocessing import Normalization
from lctprune.measure.answers import NetworkAnswers, Picture
from lctprune.measure.candidates import Candidate
from lctprune.measure.reliability import confusion_matrix, reliability
from lctprune.reports.formats import percent
from lctprune.reports.grid import Cell, Row, Table

MOST_CLASSES = 20  # in a confusion matrix; of more classes, the most frequent confusions are listed
MOST_CONFUSIONS = 15
MOST_POINTS = 500  # of a regression
LARGEST_SIDE = 96  # pixels of a picture on the page
LOSSLESS_SIDE = 64  # up to which it is a PNG


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A confusion matrix.

    Attributes:
        classes: names of the classes.
        counts: number of samples, a row for each class and a column for each answer.
        shares: fraction of the samples of a row, for shading.
    """

    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    shares: Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """An answer, and who gives it."""

    answer: str
    networks: str
    is_right: bool


@dataclass(frozen=True, kw_only=True)
class Card:
    """A picture as a data URI, its class and the answers."""

    source: str
    side: int
    target: str
    opinions: Sequence[Opinion]


def confusion(answers: NetworkAnswers, classes: Sequence[str]) -> Confusion | None:
    """Return the confusion matrix of a network; None for more than `MOST_CLASSES` classes, and for a regression."""
    if answers.confidence is None or not 1 < len(classes) <= MOST_CLASSES:
        return None
    counts = confusion_matrix(answers.targets, answers.answers, len(classes))
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return Confusion(classes=classes, counts=counts.tolist(), shares=shares.tolist())


def confusions(answers: NetworkAnswers, classes: Sequence[str]) -> Table | None:
    """Return the most frequent wrong answers where there are more than `MOST_CLASSES` classes."""
    if answers.confidence is None or len(classes) <= MOST_CLASSES:
        return None
    wrong = answers.targets != answers.answers
    pairs, counts = torch.stack([answers.targets[wrong], answers.answers[wrong]]).unique(dim=1, return_counts=True)  # type: ignore[no-untyped-call]
    rows = []
    for index in counts.argsort(descending=True, stable=True)[:MOST_CONFUSIONS].tolist():
        true, answer = pairs[:, index].tolist()
        samples = int((answers.targets == true).sum())
        count, names = int(counts[index]), (classes[true], classes[answer])
        cells = [*(Cell(name, value=name) for name in names), Cell(f"{count:,} of {samples:,}", value=count)]
        rows.append(Row(cells=cells, chosen=False))
    note = f"The most frequent of {len(counts):,} confusions among {len(classes):,} classes."
    return Table(columns=("class", "taken for", "samples"), rows=rows, note=note)


def reliability_payload(answers: NetworkAnswers) -> dict[str, Any] | None:
    """Return the reliability diagram for the page's plot; None for a regression."""
    if answers.confidence is None:
        return None
    found = reliability(answers.targets == answers.answers, answers.confidence)
    edges = [place / len(found.samples) for place in range(len(found.samples) + 1)]
    columns = zip(edges, edges[1:], found.samples, found.confidence, found.accuracy, strict=False)
    bins = [
        {"low": low, "high": high, "samples": samples, "confidence": confidence, "accuracy": accuracy}
        for low, high, samples, confidence, accuracy in columns
        if samples
    ]
    return {"bins": bins, "error": percent(found.error)}


def predictions_payload(answers: NetworkAnswers) -> dict[str, Any] | None:
    """Return predictions beside targets, evenly chosen among the samples; None for classes."""
    if answers.confidence is not None:
        return None
    step = -(-len(answers.targets) // MOST_POINTS)
    pairs = zip(answers.targets[::step].tolist(), answers.answers[::step].tolist(), strict=True)
    known = [{"target": target, "answer": answer} for target, answer in pairs if math.isfinite(target + answer)]
    return {"points": known, "samples": len(answers.targets)}


def cards(
    pictures: Sequence[Picture],
    candidates: Sequence[Candidate],
    classes: Sequence[str],
    normalization: Normalization | None,
) -> list[Card]:
    """Return pictures with the answers of every network, those of one answer together."""
    names = {each.exit: each.name for each in candidates if not each.is_reduced}
    found = []
    for picture in pictures:
        voters: dict[int, list[str]] = {}
        for exit in names:  # in the order of the table
            if exit in picture.answers:
                told = f"{names[exit]} {percent(picture.confidence[exit], 0)}"
                voters.setdefault(picture.answers[exit], []).append(told)
        opinions = [
            Opinion(answer=_named(classes, answer), networks=", ".join(who), is_right=answer == picture.target)
            for answer, who in voters.items()
        ]
        source, side = data_uri(picture.image, normalization)
        found.append(Card(source=source, side=side, target=_named(classes, picture.target), opinions=opinions))
    return found


def data_uri(image: Tensor, normalization: Normalization | None) -> tuple[str, int]:
    """Return a normalised image as a small picture, and its width in pixels.

    Args:
        image: input of a network, [channels, height, width] with 1 or 3 channels.
        normalization: mean and deviation by which it was normalised.
    """
    if normalization is not None:
        mean, std = (torch.tensor(values)[:, None, None] for values in normalization)
        image = image * std + mean
    pixels = (image.clamp(0, 1) * 255).round().byte().movedim(0, -1).squeeze(-1)
    picture = Image.fromarray(pixels.numpy())
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    kind = "PNG" if max(picture.size) <= LOSSLESS_SIDE else "JPEG"
    content = io.BytesIO()
    picture.save(content, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}", picture.width


def _named(classes: Sequence[str], number: int) -> str:
    return classes[number] if number < len(classes) else str(number)
