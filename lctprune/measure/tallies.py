"""Collect what a metric needs, batch by batch: counts of classes, or outputs beside targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lctprune.losses import mean_squared_error
from lctprune.measure.answers import Answers, answers_of
from lctprune.measure.metrics import (
    FOLDS,
    balanced_accuracy,
    class_counts,
    jackknife_error,
    macro_f1,
    mean_average_precision,
)
from lctprune.measure.target_kinds import as_classes, differ

OF_COUNTS = {"balanced-accuracy": balanced_accuracy, "macro-f1": macro_f1}


class Scores(NamedTuple):
    """The value of a metric for each exit, and its standard errors where they are known."""

    values: list[float]
    errors: Sequence[float | None] | None = None


class ClassTally:
    """Counts of correct, predicted and true targets of each class, for each exit.

    Args:
        ignored: classes that the loss ignores.
    """

    def __init__(self, ignored: Sequence[int]) -> None:
        self._ignored = torch.tensor(ignored, dtype=torch.long)
        self._counts: Tensor | int = 0  # [exits, FOLDS, 3, classes]
        self._correct: list[Tensor] = []  # [exits, batch] each, where a sample has one target
        self._true: list[Tensor] = []  # [batch] each; -1 does not count

    def add(self, outputs: Sequence[Tensor], targets: Tensor, first: int) -> Tensor:
        """Count one batch.

        Args:
            outputs: output of each exit, [batch, classes, ...].
            targets: class numbers, [batch, ...], or probabilities, of the shape of the outputs.
            first: number of the first sample.

        Returns:
            Number of targets of each sample that count, [batch].
        """
        classes = outputs[0].shape[1]
        true = as_classes(targets, classes)
        if len(self._ignored):
            true = true.masked_fill(torch.isin(true, self._ignored.to(true.device)), -1)
        counted = true >= 0
        samples = torch.arange(first, first + len(true), device=true.device)
        folds = (samples % FOLDS).view(-1, *[1] * (true.dim() - 1)).expand_as(true)
        answers = [output.argmax(1) for output in outputs]
        self._counts = self._counts + torch.stack([class_counts(each, true, folds, classes) for each in answers])
        if true.dim() == 1:
            self._correct.append(torch.stack([each == true for each in answers]))
            self._true.append(true)
        return counted.flatten(1).sum(1) if counted.dim() > 1 else counted.long()

    @property
    def accuracy(self) -> list[float]:
        """The fraction of targets whose class is right, of each exit."""
        correct, _, true = self._total.double().sum(-1).unbind(-1)
        return (correct / true).tolist()

    @property
    def answers(self) -> list[Answers] | None:
        """Which of the samples that count are right, of each exit; None where a sample has several targets."""
        return answers_of(torch.cat(self._correct, 1), torch.cat(self._true)) if self._correct else None

    @property
    def recall(self) -> list[list[float | None]]:
        """The recall of each class, of each exit; None for a class without samples."""
        correct, _, true = self._total.double().unbind(-2)
        return [_known(recalls) for recalls in (correct / true).tolist()]

    @property
    def class_samples(self) -> list[int]:
        """The number of targets of each class."""
        return self._total[0, 2].tolist()

    def scores(self, metric: str) -> Scores:
        """Compute balanced accuracy or macro F1."""
        formula, total = OF_COUNTS[metric], self._total
        without = total[:, None] - torch.as_tensor(self._counts).cpu()  # [exits, FOLDS, 3, classes]
        return Scores(formula(total).tolist(), _known(jackknife_error(formula(without).transpose(0, 1)).tolist()))

    @property
    def _total(self) -> Tensor:
        return torch.as_tensor(self._counts).cpu().sum(1)


class OutputTally:
    """All outputs and targets.

    Args:
        ignored: classes that the loss ignores, where targets are classes.
        of_classes: whether targets are classes.
    """

    def __init__(self, ignored: Sequence[int], *, of_classes: bool) -> None:
        self._ignored, self._of_classes = torch.tensor(ignored, dtype=torch.long), of_classes
        self._outputs: list[Tensor] = []  # [exits, batch, ...] each
        self._targets: list[Tensor] = []

    def add(self, outputs: Sequence[Tensor], targets: Tensor) -> None:
        """Keep one batch."""
        self._outputs.append(torch.stack(list(outputs)).float().cpu())
        self._targets.append(targets.cpu())

    def scores(self, metric: str) -> Scores:
        """Compute mAP or R2."""
        outputs, targets = torch.cat(self._outputs, 1), torch.cat(self._targets)
        return self._ranked(outputs, targets) if metric == "map" else r_squared(outputs, targets)

    def _ranked(self, outputs: Tensor, targets: Tensor) -> Scores:
        folds = torch.arange(len(targets)) % FOLDS
        outputs = outputs.reshape(*outputs.shape[:2], *(outputs.shape[2:] or (1,)))
        labels = (
            targets.reshape(outputs.shape[1:]) if not self._of_classes else self._one_hot(targets, outputs.shape[2])
        )
        rows = labels.flatten(2).movedim(1, -1).flatten(0, -2) if labels.dim() > 2 else labels  # [n, labels]
        folds = folds.repeat_interleave(len(rows) // len(folds))
        found = []
        for output in outputs:
            ranked = output.flatten(2).movedim(1, -1).flatten(0, -2) if output.dim() > 2 else output
            found.append(mean_average_precision(ranked, rows, folds))
        return Scores([value for value, _ in found], _known([error for _, error in found]))

    def _one_hot(self, targets: Tensor, classes: int) -> Tensor:
        """Return 0 and 1 for each class, [n, classes, ...]; -1 for all where a target is ignored."""
        true = as_classes(targets, classes)
        ignored = (true < 0) | torch.isin(true, self._ignored)
        labels = functional.one_hot(true.clamp(min=0), classes).movedim(-1, 1)
        return labels.masked_fill(ignored.unsqueeze(1), -1)


def _known(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def r_squared(outputs: Tensor, targets: Tensor) -> Scores:
    """Compute R2, the fraction of variance explained, and its standard error; nan where the targets do not differ.

    Args:
        outputs: outputs of each exit, [exits, n, ...].
        targets: targets, [n, ...], as many numbers per sample as outputs.
    """
    each = torch.stack([mean_squared_error(output, targets) for output in outputs]).double()  # [exits, n]
    targets = targets.double().flatten(1) if targets.dim() > 1 else targets.double()[:, None]
    spread = (targets - targets.mean(0)).square().mean(1)  # [n], whose mean is the variance
    if not differ(targets):
        return Scores([math.nan] * len(each))
    variance = spread.mean()
    unexplained = each.mean(1) / variance  # [exits], a ratio of two means: both vary with the samples
    deviations = (each - unexplained[:, None] * spread) / variance
    return Scores((1 - unexplained).tolist(), (deviations.std(1) / math.sqrt(each.shape[1])).nan_to_num().tolist())
