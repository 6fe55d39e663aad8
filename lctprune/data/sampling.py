"""The order in which a pass over a split takes its samples."""

from __future__ import annotations

import torch
from torch import Tensor


def shuffled_order(targets: Tensor, generator: torch.Generator, *, balanced: bool) -> Tensor:
    """Return the positions of the samples of one pass, as many as there are targets, [n].

    Args:
        targets: targets of the split, [n, ...].
        generator: source of the order.
        balanced: whether each class comes equally often (give or take one), samples of rare classes several times and
            all of a class in turn, some of a frequent class not at all; otherwise each sample comes once.
    """
    if not balanced:
        return torch.randperm(len(targets), generator=generator)
    _, counts = torch.unique(targets, return_counts=True)
    share, rest = divmod(len(targets), len(counts))
    gets_one_more = torch.randperm(len(counts), generator=generator) < rest
    by_class = torch.split(targets.argsort(stable=True), counts.tolist())
    chosen = []
    for own, more in zip(by_class, gets_one_more.tolist(), strict=True):
        turns = -(-(share + more) // len(own))
        repeated = [own[torch.randperm(len(own), generator=generator)] for _ in range(turns)]
        chosen.append(torch.cat([own[:0], *repeated])[: share + more])
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=generator)]
