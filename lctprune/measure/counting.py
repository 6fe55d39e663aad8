"""Which samples count in a mean loss: those with a target that the loss does not ignore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.losses import IGNORED, Loss, class_numbers, is_own
from lctprune.measure.loss_trials import ignored_classes
from lctprune.measure.target_kinds import Kind, is_label


class Counting(NamedTuple):
    """Rule by which targets count, of plain values, so that it can travel to other processes.

    Attributes:
        kind: kind of the targets.
        classes: number of classes, where a loss of the caller's own ignores all numbers beyond them; 0 for the default
            loss, which ignores -100.
        ignored: classes that a loss of the caller's own ignores.
    """

    kind: Kind = "classes"
    classes: int = 0
    ignored: Sequence[int] = ()

    def fraction(self, targets: Tensor) -> Tensor:
        """Return the fraction of samples that have a target that counts, []; of exactly 1 where all have."""
        targets = class_numbers(targets)
        if self.kind == "labels":
            counted = is_label(targets)
        elif self.kind != "classes" or targets.is_floating_point():
            return torch.ones((), device=targets.device)
        elif self.classes:
            ignored = torch.tensor(self.ignored, dtype=torch.long, device=targets.device)
            counted = (targets >= 0) & (targets < self.classes) & ~torch.isin(targets, ignored)
        else:
            counted = targets != IGNORED
        return counted.reshape(len(targets), -1).any(1).float().mean()


def counting_of(kind: Kind, shape: Sequence[int], loss: Loss | None, device: torch.device) -> Counting:
    """Find out which targets count.

    Args:
        kind: kind of the targets.
        shape: shape of one sample's output.
        loss: loss per sample; None for the default one.
        device: device on which the loss works.
    """
    if kind != "classes" or not is_own(loss):
        return Counting(kind)
    return Counting(kind, shape[0], ignored_classes(loss, shape, device))
