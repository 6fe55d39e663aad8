"""Cut a row of costs into parts that are as even as possible; pure functions."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence


def balance(cumulative: Sequence[int], parts: int, end_costs: Sequence[int] | None = None) -> list[int]:
    """Cut a row of costs so that the largest part is as small as possible, and then the sum of squares.

    Args:
        cumulative: cost of everything up to each cut point, in order, with the whole cost last.
        parts: number of parts, at most `len(cumulative)`.
        end_costs: further cost of a part that ends at each cut point; by default none.

    Returns:
        The `parts - 1` cut points (indices into `cumulative`), in order.
    """
    ends = list(enumerate(zip(cumulative, end_costs or [0] * len(cumulative), strict=True)))
    starts = [(-1, 0), *enumerate(cumulative)]
    sizes = {
        (start, end): upto - before + end_cost
        for start, before in starts
        for end, (upto, end_cost) in ends
        if start < end
    }
    bounds = sorted(set(sizes.values()))
    smallest = bisect.bisect_left(bounds, True, key=lambda bound: _least_squares(sizes, parts, bound) is not None)
    cuts = _least_squares(sizes, parts, bounds[smallest])
    assert cuts is not None  # the whole row in one part is always possible
    return cuts


def _least_squares(sizes: Mapping[tuple[int, int], int], parts: int, bound: int) -> list[int] | None:
    """Find the cuts with the least sum of squares and no part larger than `bound`, by dynamic programming."""
    last = max(end for _, end in sizes)
    best: dict[int, tuple[int, tuple[int, ...]]] = {-1: (0, ())}  # by the last cut so far; -1: none
    for _ in range(parts):
        extended: dict[int, tuple[int, tuple[int, ...]]] = {}
        for end in range(last + 1):
            choices = [
                (squares + size**2, (*cuts, end))
                for start, (squares, cuts) in best.items()
                if start < end and (size := sizes[start, end]) <= bound
            ]
            if choices:
                extended[end] = min(choices)
        best = extended
    whole = best.get(last)
    return list(whole[1][:-1]) if whole else None
