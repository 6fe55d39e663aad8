"""The metrics of classes and labels, from counts and rankings, in batched tensor code.

Classes and labels that do not occur in the targets have no recall, F1 or precision; averages leave them out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FOLDS = 20  # parts of the samples, each of which is left out once to estimate a standard error


def balanced_accuracy(counts: Tensor) -> Tensor:
    """Compute the mean recall of the classes that occur.

    Args:
        counts: numbers of correct, predicted and true samples of each class, [..., 3, classes].

    Returns:
        [...]; nan where no class occurs.
    """
    correct, _, true = counts.double().unbind(-2)
    return _mean_over(correct / true, true > 0)


def macro_f1(counts: Tensor) -> Tensor:
    """Compute the mean F1 of the classes that occur: 2 correct / (predicted + true).

    Args:
        counts: as for `balanced_accuracy`.

    Returns:
        [...]; nan where no class occurs.
    """
    correct, predicted, true = counts.double().unbind(-2)
    return _mean_over(2 * correct / (predicted + true), true > 0)


def class_counts(predicted: Tensor, true: Tensor, folds: Tensor, classes: int) -> Tensor:
    """Count correct, predicted and true samples of each class in each fold, on the device of the classes.

    Args:
        predicted: predicted classes, [n, ...].
        true: true classes, [n, ...]; -1 does not count.
        folds: folds of the samples, 0 to `FOLDS` - 1, [n, ...].
        classes: number of classes.

    Returns:
        [FOLDS, 3, classes], int64.
    """
    counted = true >= 0
    # sums over all, not selections, whose size the host would have to wait for
    numbers = torch.stack([true.clamp(min=0), predicted, true.clamp(min=0)]).flatten(1)
    counts = torch.stack([counted & (predicted == true), counted, counted]).flatten(1)
    parts = torch.arange(3, device=true.device)[:, None]
    cells = ((parts * FOLDS + folds.flatten()) * classes + numbers).flatten()
    found = torch.zeros(3 * FOLDS * classes, dtype=torch.long, device=true.device)
    return found.scatter_add_(0, cells, counts.flatten().long()).view(3, FOLDS, classes).transpose(0, 1)


def mean_average_precision(outputs: Tensor, labels: Tensor, folds: Tensor) -> tuple[float, float]:
    """Compute the mean over labels of the average precision, sum over k of (R_k - R_{k-1}) P_k, and its standard error.

    Samples with equal outputs share one threshold k.

    Args:
        outputs: outputs, [n, labels]; nan ranks last.
        labels: 1 where a sample has a label, 0 where not; other numbers where that is not known, [n, labels].
        folds: folds of the samples, 0 to `FOLDS` - 1, [n].

    Returns:
        nan where no sample has any label.
    """
    ranked, order = outputs.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).sort(0, descending=True)
    ranked_labels, folds = labels.gather(0, order), folds[order]
    hits, known = (ranked_labels == 1).double(), ((ranked_labels == 0) | (ranked_labels == 1)).double()
    positions = torch.arange(len(ranked), device=ranked.device)[:, None].expand_as(ranked)
    is_last = torch.ones_like(ranked, dtype=torch.bool)
    is_last[:-1] = ranked[1:] != ranked[:-1]
    ends = positions.where(is_last, len(ranked)).flip(0).cummin(0).values.flip(0)  # of equal outputs

    def mean_without(fold: int) -> Tensor:
        kept = (folds != fold) * known
        found = (hits * kept).cumsum(0)
        precision = (found / kept.cumsum(0).clamp(min=1)).gather(0, ends)
        total = found[-1]
        return _mean_over((precision * hits * kept).sum(0) / total, total > 0)

    without = torch.stack([mean_without(fold) for fold in range(FOLDS)])
    return float(mean_without(-1)), float(jackknife_error(without))


def jackknife_error(without: Tensor) -> Tensor:
    """Compute the standard error of a metric from its values without one fold of the samples each.

    Efron, Stein 1981 (delete-a-group jackknife).

    Args:
        without: values without each fold, [folds, ...].
    """
    folds = len(without)
    return ((folds - 1) / folds * (without - without.mean(0)).square().sum(0)).sqrt()


def _mean_over(values: Tensor, present: Tensor) -> Tensor:
    return values.where(present, 0.0).sum(-1) / present.sum(-1)
