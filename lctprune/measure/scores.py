"""Score every exit in one pass over a split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.data.splits import Split
from lctprune.errors import DataError, first_line
from lctprune.losses import Loss, default_loss, mean_per_sample, mean_squared_error
from lctprune.network import LocalCriticNetwork
from lctprune.utils.modules import device_of, evaluation_mode


class ExitScores(NamedTuple):
    """The scores of each exit in one pass over a split.

    Attributes:
        accuracy: fraction of samples classified correctly, or R2, of each exit.
        loss: mean loss per sample of each exit.
        samples: number of samples.
        metric: kind of `accuracy`: "accuracy" or "R2".
        accuracy_error: standard error of each R2.
    """

    accuracy: list[float]
    loss: list[float]
    samples: int
    metric: str = "accuracy"
    accuracy_error: list[float] | None = None


class ScoreSheet:
    """Collects the outputs of exits, batch by batch.

    Args:
        loss: loss per sample; by default that of `default_loss`.
    """

    def __init__(self, loss: Loss | None = None) -> None:
        self._loss = loss
        self._scores: list[Tensor] = []  # [exits, batch] each, from `score_samples`
        self._losses: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, outputs: Sequence[Tensor], targets: Tensor) -> None:
        """Add one batch.

        Args:
            outputs: output of each exit, [batch, ...].
            targets: targets, [batch, ...].

        Raises:
            DataError: a target's class is beyond the outputs.
        """
        loss = self._loss or default_loss(targets)
        self._scores.append(torch.stack([score_samples(output, targets) for output in outputs]).double().cpu())
        try:
            losses = torch.stack([loss(output, targets) for output in outputs])
        except IndexError as error:  # cross-entropy's
            raise DataError(f"the outputs do not fit the targets: {first_line(error)}") from error
        self._losses.append(losses.double().cpu())
        self._targets.append(targets.cpu())

    def result(self) -> ExitScores:
        """Return the scores over all batches.

        Raises:
            DataError: there were none.
        """
        if not self._scores:
            raise DataError("the split has no samples to measure accuracy on")
        each, targets = torch.cat(self._scores, 1), torch.cat(self._targets)
        mean_losses = torch.cat(self._losses, 1).mean(1).tolist()
        samples = each.shape[1]
        if not targets.is_floating_point():
            return ExitScores(each.mean(1).tolist(), mean_losses, samples)
        targets = targets.double().flatten(1) if targets.dim() > 1 else targets.double()[:, None]
        spread = (targets - targets.mean(0)).square().mean(1)  # [samples], whose mean is the variance
        variance = spread.mean().clamp(min=1e-12)
        unexplained = each.mean(1) / variance  # [exits], a ratio of two means: both vary with the samples
        deviations = (each - unexplained[:, None] * spread) / variance
        errors = (deviations.std(1) / math.sqrt(samples)).nan_to_num().tolist() if samples > 1 else [0.0] * len(each)
        return ExitScores((1 - unexplained).tolist(), mean_losses, samples, "R2", errors)


def score_exits(
    network: LocalCriticNetwork, split: Split, *, loss: Loss | None = None, batch_size: int = 256
) -> ExitScores:
    """Measure accuracy (in a regression: R2) and mean loss of every exit, in evaluation mode.

    Args:
        network: network on any device; its mode is put back.
        split: samples, which are read once.
        loss: loss per sample; by default that of `default_loss`.
        batch_size: samples per batch.

    Raises:
        DataError: the split has no samples.
    """
    device = device_of(network)
    sheet = ScoreSheet(loss)
    with evaluation_mode(network), torch.no_grad():
        for inputs, targets in split.batches(batch_size):
            sheet.add(network.exits(inputs.to(device)), targets.to(device))
    return sheet.result()


def score_networks(networks: Sequence[nn.Module], split: Split, *, batch_size: int = 256) -> ExitScores:
    """Measure accuracy (in a regression: R2) and mean loss of networks that share nothing but their input.

    Args:
        networks: networks on one device; their modes are put back.
        split: samples, which are read once.
        batch_size: samples per batch.

    Raises:
        DataError: the split has no samples.
    """
    together = nn.ModuleList(networks)
    device = device_of(together)
    sheet = ScoreSheet()
    with evaluation_mode(together), torch.no_grad():
        for inputs, targets in split.batches(batch_size):
            inputs = inputs.to(device)
            sheet.add([network(inputs) for network in networks], targets.to(device))
    return sheet.result()


def score_samples(output: Tensor, target: Tensor) -> Tensor:
    """Score each sample: squared error in a regression, otherwise whether the class is correct.

    Where a sample has several classes, in further dimensions, its score is the fraction that is correct.

    Returns:
        [batch].

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if target.is_floating_point():
        return mean_squared_error(output, target)
    if output.dim() < 2 or output.select(1, 0).shape != target.shape:
        raise ValueError(
            f"outputs are {list(output.shape)}, targets {list(target.shape)}; outputs need [batch, classes, ...]"
        )
    classes = output.argmax(1)
    return mean_per_sample((classes == target).float())
