"""Hold out a part of the training samples, balanced by class."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from lctprune.errors import DataError

REMEDY = "add samples, or give a split of your own (val/, val.tsv)"


def hold_out(targets: Tensor, fraction: float, seed: int, *, remedy: str = REMEDY) -> tuple[Tensor, Tensor]:
    """Return the indices of the larger and of the held-out part: by `stratified`, of small classes by `drawn_by_class`.

    Raises:
        DataError: every class has a single sample.
    """
    try:
        return stratified(targets, fraction, seed, remedy=remedy)
    except DataError:  # the held-out part would have fewer samples than there are classes
        kept, drawn = drawn_by_class(targets, fraction, seed)
        if not len(drawn):
            raise
        return kept, drawn


def stratified(targets: Tensor, fraction: float, seed: int, *, remedy: str = REMEDY) -> tuple[Tensor, Tensor]:
    """Return the indices of the larger and of the held-out part, each with the same fraction of every class.

    The only sample of a class stays in the larger part.

    Raises:
        DataError: a class is too small.
    """
    from sklearn.model_selection import train_test_split  # slow to import

    alone = targets.bincount()[targets] == 1
    divided = numpy.flatnonzero(~alone.numpy())
    try:
        kept, rest = train_test_split(divided, test_size=fraction, random_state=seed, stratify=targets[divided].numpy())
    except ValueError as error:
        smallest = int(targets.bincount().min())
        raise DataError(
            f"{len(targets)} samples of {int(targets.max()) + 1} classes (the smallest has {smallest}) are too few to "
            f"hold out {fraction:.0%} of them; {remedy}"
        ) from error
    kept = numpy.concatenate([kept, numpy.flatnonzero(alone.numpy())])
    return torch.from_numpy(kept).sort().values, torch.from_numpy(rest).sort().values


def drawn_by_class(targets: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the larger and of the held-out part, with the same fraction of every class.

    A class of several samples has at least one in both parts; the only sample of a class stays in the larger one. That
    suits small classes better than `stratified`, on whose draws the splits of recorded runs depend.

    Args:
        targets: class numbers.
        fraction: part of each class that is held out.
        seed: random seed.
    """
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    is_held_out = torch.zeros(len(targets), dtype=torch.bool)
    for label in sorted({*targets.tolist()}):
        members = order[targets[order] == label]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        is_held_out[members[:count]] = True
    return (~is_held_out).nonzero()[:, 0], is_held_out.nonzero()[:, 0]
