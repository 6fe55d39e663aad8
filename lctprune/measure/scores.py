"""Score every exit in one pass over a split."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.config.metric import AUTO, METRIC_NAMES, parse_metric
from lctprune.data.splits import Split, sample_count
from lctprune.errors import DataError, DataWarning, first_line
from lctprune.losses import Loss, class_numbers, default_loss, is_own
from lctprune.measure.answers import Answers
from lctprune.measure.loss_trials import ignored_classes
from lctprune.measure.tallies import ClassTally, OutputTally, Scores
from lctprune.measure.target_kinds import default_metric, is_label, kind_of, require_fit
from lctprune.network import LocalCriticNetwork
from lctprune.utils.modules import device_of, evaluation_mode
from lctprune.utils.steps import stepping
from lctprune.utils.transfer import sent

NO_R2 = "the targets are the same for every sample of the split, or it has one sample, so R2 is not defined"


class ExitScores(NamedTuple):
    """The scores of each exit in one pass over a split.

    Attributes:
        accuracy: fraction of targets whose class is right, of each exit; without classes the score, or nan if that is
            the loss.
        loss: mean loss per sample of each exit; samples whose targets are all ignored do not count.
        samples: number of samples that count.
        metric: shown name of the metric that exits are compared by.
        accuracy_error: standard error of each score, where it is not a fraction of samples; None where not known.
        score: value of the metric, of each exit.
        recall: recall of each class, of each exit, None for a class without samples; None without classes.
        class_samples: number of targets of each class; None without classes.
        answers: samples that each exit classified correctly; None without one class per sample.
    """

    accuracy: list[float]
    loss: list[float]
    samples: int
    metric: str = "accuracy"
    accuracy_error: Sequence[float | None] | None = None
    score: Sequence[float] = ()
    recall: list[list[float | None]] | None = None
    class_samples: list[int] | None = None
    answers: list[Answers] | None = None

    @property
    def most_frequent(self) -> float | None:
        """The fraction of the targets that are of the most frequent class; None without classes."""
        counts = self.class_samples or []
        return max(counts) / sum(counts) if any(counts) else None


class ScoreSheet:
    """Collects the outputs of exits, batch by batch.

    Args:
        loss: loss per sample; by default that of `default_loss`.
        metric: setting of the metric; "auto" for that of the kind of targets.
        targets: all targets, to tell their kind; by default those of the first batch.
    """

    def __init__(self, loss: Loss | None = None, metric: str = AUTO, targets: Tensor | None = None) -> None:
        self._loss, self._metric, self._all_targets = loss, parse_metric(metric), targets
        self._losses: list[Tensor] = []  # [exits, batch] each
        self._weights: list[Tensor] = []  # number of targets that count, [batch] each
        self._classes: ClassTally | None = None
        self._outputs: OutputTally | None = None
        self._has_labels, self._is_chosen = False, self._metric == AUTO
        self._samples = 0

    def add(self, outputs: Sequence[Tensor], targets: Tensor) -> None:
        """Add one batch.

        Args:
            outputs: output of each exit, [batch, ...].
            targets: targets, [batch, ...].

        Raises:
            DataError: a target's class is beyond the outputs.
            ConfigError: the targets do not have the metric.
            ValueError: the shapes do not fit each other.
        """
        targets = class_numbers(targets)
        loss = self._loss or default_loss(targets)
        try:
            losses = torch.stack([loss(output, targets) for output in outputs])
        except IndexError as error:  # cross-entropy's
            raise DataError(f"the outputs do not fit the targets: {first_line(error)}") from error
        if not self._losses:
            self._begin(outputs[-1], targets)
        self._losses.append(losses)  # all stays on the device until the end
        if self._classes:
            self._weights.append(self._classes.add(outputs, targets, self._samples))
        elif self._has_labels:
            self._weights.append(is_label(targets).reshape(len(targets), -1).any(1).to(losses))
        else:
            self._weights.append(losses.new_ones(len(targets)))
        if self._outputs:
            self._outputs.add(outputs, targets)
        self._samples += len(targets)

    def _begin(self, output: Tensor, targets: Tensor) -> None:
        """Decide what is collected, by the first batch."""
        shape, every = output.shape[1:], targets if self._all_targets is None else self._all_targets
        kind = kind_of(shape, every, self._loss, device=output.device)
        if self._metric == AUTO:
            self._metric = default_metric(kind, shape)
        require_fit(self._metric, kind, shape, every, self._loss)
        self._has_labels = kind == "labels"
        of_classes = kind in ("classes", "probabilities") or self._metric not in ("map", "r2", "loss")
        ignored = ignored_classes(self._loss, shape, output.device) if of_classes else []
        if of_classes:
            self._classes = ClassTally(ignored)
        if self._metric in ("map", "r2"):
            self._outputs = OutputTally(ignored, of_classes=of_classes)

    def result(self) -> ExitScores:
        """Return the scores over all batches.

        Raises:
            DataError: there were none, or the loss ignores all targets, or no label occurs.
        """
        if not self._losses:
            raise DataError("the split has no samples to measure accuracy on")
        losses, weights = torch.cat(self._losses, 1).cpu().double(), torch.cat(self._weights).cpu().double()
        counted = weights > 0
        if not counted.any():
            raise DataError("the loss ignores every target of the split: there is nothing to measure exits by")
        if is_own(self._loss):  # how it weighs the parts of a sample is its own affair
            weights = counted.double()
        losses, weights = losses[:, counted], weights[counted]
        mean_losses = (losses * (weights / weights.mean())).mean(1)
        found = self._scores(losses, mean_losses)
        if self._metric == "r2" and all(map(math.isnan, found.values)):
            instead = "; exits are compared by their loss"
            warnings.warn(f"{NO_R2}{instead if self._is_chosen else ''}", DataWarning, stacklevel=3)
            if self._is_chosen:
                self._metric, self._outputs = "loss", None
                found = self._scores(losses, mean_losses)
        if self._metric == "map" and any(map(math.isnan, found.values)):
            raise DataError("no sample of the split has any label, so mAP is not defined; give another metric")
        accuracy = found.values
        if self._classes:
            accuracy = self._classes.accuracy
        elif self._metric == "loss":
            accuracy = [math.nan] * len(losses)
        return ExitScores(
            accuracy=accuracy,
            loss=mean_losses.tolist(),
            samples=losses.shape[1],
            metric=METRIC_NAMES[self._metric],
            accuracy_error=found.errors,
            score=found.values,
            recall=self._classes.recall if self._classes else None,
            class_samples=self._classes.class_samples if self._classes else None,
            answers=self._classes.answers if self._classes else None,
        )

    def _scores(self, losses: Tensor, mean_losses: Tensor) -> Scores:
        if self._outputs:
            return self._outputs.scores(self._metric)
        if self._metric == "loss":
            samples = losses.shape[1]
            errors = (losses.std(1) / math.sqrt(samples)).tolist() if samples > 1 else None
            return Scores(mean_losses.tolist(), errors)
        assert self._classes is not None
        return Scores(self._classes.accuracy) if self._metric == "accuracy" else self._classes.scores(self._metric)


def score_exits(
    network: LocalCriticNetwork,
    split: Split,
    *,
    loss: Loss | None = None,
    batch_size: int = 256,
    metric: str = AUTO,
) -> ExitScores:
    """Measure every exit by a metric, and its mean loss, in evaluation mode.

    Args:
        network: network on any device; its mode is put back.
        split: samples, which are read once.
        loss: loss per sample; by default that of `default_loss`.
        batch_size: samples per batch.
        metric: setting of the metric; "auto" for that of the kind of targets.

    Raises:
        DataError: the split has no samples.
        ConfigError: the targets do not have the metric.
    """
    device = device_of(network)
    sheet = ScoreSheet(loss, metric, split.targets)
    with evaluation_mode(network), torch.no_grad():
        for inputs, targets in read_batches(split, even_batch_size(split, batch_size)):
            sheet.add(network.exits(sent(inputs, device)), sent(targets, device))
    return sheet.result()


def score_networks(
    networks: Sequence[nn.Module],
    split: Split,
    *,
    loss: Loss | None = None,
    batch_size: int = 256,
    metric: str = AUTO,
) -> ExitScores:
    """Measure networks that share nothing but their input by a metric, and their mean loss.

    Args:
        networks: networks on one device; their modes are put back.
        split: samples, which are read once.
        loss: loss per sample; by default that of `default_loss`.
        batch_size: samples per batch.
        metric: setting of the metric; "auto" for that of the kind of targets.

    Raises:
        DataError: the split has no samples.
        ConfigError: the targets do not have the metric.
    """
    together = nn.ModuleList(networks)
    device = device_of(together)
    sheet = ScoreSheet(loss, metric, split.targets)
    with evaluation_mode(together), torch.no_grad():
        for inputs, targets in read_batches(split, even_batch_size(split, batch_size)):
            inputs = sent(inputs, device)
            sheet.add([network(inputs) for network in networks], sent(targets, device))
    return sheet.result()


def even_batch_size(split: Split, most: int) -> int:
    """Return the largest batch size whose last batch is not a single sample, of which batch norm has no statistics."""
    samples = sample_count(split)
    return next((size for size in range(most, 1, -1) if samples % size != 1), most)


def read_batches(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Read the batches of a split, and log how far that is.

    Args:
        split: samples.
        size: samples per batch.
    """
    samples = sample_count(split)
    described = f"Scoring {samples} samples, by batches of {size}"
    return stepping(split.batches(size), lambda _: described, count=math.ceil(samples / size))
