"""Metrics of classes and labels against scikit-learn, and their standard errors against what other samples give."""

from __future__ import annotations

import math
import warnings

import numpy
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score
from torch import Tensor, nn

import lctprune as lct
from lctprune.measure.metrics import FOLDS, mean_average_precision
from lctprune.measure.scores import ExitScores, score_exits


def scored(outputs: Tensor, targets: Tensor, metric: str, **options: object) -> ExitScores:
    """Score a network whose outputs are its inputs."""
    network = lct.LocalCriticNetwork([nn.Identity()])
    return score_exits(network, lct.TensorSplit(outputs, targets), batch_size=7, metric=metric, **options)


def classified(samples: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make uneven classes, and outputs that are right more often than not."""
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(samples, generator=generator) ** 3 * classes).long()
    outputs = torch.randn(samples, classes, generator=generator) + 1.5 * nn.functional.one_hot(targets, classes)
    return outputs, targets


@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_classes_are_scikit_learns(seed: int) -> None:
    outputs, targets = classified(60, 6, seed)
    targets[targets == 4] = 0  # a class that no sample has, but that is predicted
    predicted, present = outputs.argmax(1), targets.unique()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the class that is predicted and does not occur
        balanced = balanced_accuracy_score(targets, predicted)
        macro = f1_score(targets, predicted, labels=present, average="macro")
    assert scored(outputs, targets, "balanced-accuracy").score == pytest.approx([balanced])
    assert scored(outputs, targets, "macro-f1").score == pytest.approx([macro])
    right = (predicted == targets).double().mean().item()
    for metric in ("accuracy", "balanced-accuracy", "macro-f1", "loss"):
        scores = scored(outputs, targets, metric)
        assert scores.accuracy == pytest.approx([right])  # whatever exits are compared by
    assert scores.score == scores.loss
    truth = nn.functional.one_hot(targets, 6)
    averages = [average_precision_score(truth[:, k], outputs[:, k]) for k in present.tolist()]
    assert scored(outputs, targets, "map").score == pytest.approx([numpy.mean(averages)], rel=1e-5)


def test_recall_of_each_class_is_that_of_its_samples() -> None:
    outputs, targets = classified(80, 5)
    targets[targets == 3] = 1
    scores = scored(outputs, targets, "accuracy")
    assert scores.class_samples == targets.bincount(minlength=5).tolist()
    assert scores.recall is not None
    for number, recall in enumerate(scores.recall[0]):
        of_class = targets == number
        expected = (outputs[of_class].argmax(1) == number).double().mean().item() if of_class.any() else None
        assert recall == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("decimals", [1, 6])  # with many equal outputs, and with none
@pytest.mark.parametrize("seed", range(3))
def test_mean_average_precision_is_scikit_learns(seed: int, decimals: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(50, 4, generator=generator) < torch.tensor([0.5, 0.2, 0.05, 0.9])).float()
    labels[:, 1] = 0  # no sample has it
    outputs = (torch.randn(50, 4, generator=generator) + labels).round(decimals=decimals)
    expected = [average_precision_score(labels[:, k], outputs[:, k]) for k in range(4) if labels[:, k].any()]
    value, error = mean_average_precision(outputs, labels, torch.arange(50) % FOLDS)
    assert value == pytest.approx(numpy.mean(expected), abs=1e-9)
    assert error > 0
    bce = nn.BCEWithLogitsLoss(reduction="none")
    scores = scored(outputs, labels, "map", loss=lambda output, target: bce(output, target).mean(1))
    assert scores.score == pytest.approx([value])


@pytest.mark.parametrize("missing", [-1.0, math.nan])
def test_labels_that_are_missing_do_not_count(missing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(60, 3, generator=generator) < 0.3).float()
    outputs = torch.randn(60, 3, generator=generator) + labels
    known = torch.rand(60, 3, generator=generator) < 0.7
    known[4] = False  # nothing is known of this sample
    expected = [average_precision_score(labels[known[:, k], k], outputs[known[:, k], k]) for k in range(3)]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        is_known = (target == 0) | (target == 1)
        losses = nn.functional.binary_cross_entropy_with_logits(output, target.where(is_known, 0.0), reduction="none")
        return losses.where(is_known, 0.0).sum(1) / is_known.sum(1).clamp(min=1)

    targets = labels.masked_fill(~known, missing)
    for metric in ("auto", "map"):
        scores = scored(outputs, targets, metric, loss=loss)
        assert (scores.metric, scores.samples) == ("mAP", int(known.any(1).sum()))
        assert scores.score == pytest.approx([numpy.mean(expected)], rel=1e-6)
    counted = known.any(1)
    assert scores.loss == pytest.approx([loss(outputs, targets)[counted].mean().item()], rel=1e-5)


def test_outputs_that_are_nan_rank_last() -> None:
    labels = torch.tensor([[1.0], [0.0], [0.0]])
    value, _ = mean_average_precision(torch.tensor([[math.nan], [1.0], [-9.0]]), labels, torch.arange(3))
    assert value == pytest.approx(1 / 3)


@pytest.mark.parametrize("metric", ["balanced-accuracy", "macro-f1", "map", "loss"])
def test_standard_errors_are_about_the_spread_over_other_samples(metric: str) -> None:
    found = [scored(*classified(300, 4, seed), metric) for seed in range(30)]
    spread = numpy.std([scores.score[0] for scores in found], ddof=1)
    error = numpy.mean([scores.accuracy_error[0] for scores in found])  # type: ignore[index]
    assert 0.6 * spread < error < 1.7 * spread


def test_a_perfect_segmentation_is_right_by_every_metric() -> None:
    targets = torch.randint(0, 3, (9, 4, 4), generator=torch.Generator().manual_seed(0))
    outputs = nn.functional.one_hot(targets, 3).movedim(-1, 1) * 10.0
    targets[torch.rand(targets.shape, generator=torch.Generator().manual_seed(1)) < 0.4] = -100
    targets[2] = -100  # a sample without any class
    for metric in ("accuracy", "balanced-accuracy", "macro-f1", "map"):
        scores = scored(outputs, targets, metric)
        assert scores.score == pytest.approx([1.0])
        assert scores.samples == 8
        assert scores.loss == pytest.approx([nn.functional.cross_entropy(outputs, targets).item()], rel=1e-5)


def test_dense_metrics_count_every_labelled_pixel_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (9, 4, 4), generator=generator)
    outputs = torch.randn(9, 3, 4, 4, generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < 0.4] = -100
    counted = targets != -100
    predicted, true = outputs.argmax(1)[counted], targets[counted]
    assert scored(outputs, targets, "accuracy").score == pytest.approx([(predicted == true).double().mean().item()])
    expected = balanced_accuracy_score(true, predicted)
    assert scored(outputs, targets, "balanced-accuracy").score == pytest.approx([expected])
    loss = nn.functional.cross_entropy(outputs, targets).item()
    assert scored(outputs, targets, "loss").score == pytest.approx([loss], rel=1e-5)
