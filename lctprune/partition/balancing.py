"""Cut a row of costs into parts as even as can be. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence


def balance(cumulative: Sequence[int], parts: int, end_costs: Sequence[int] | None = None) -> list[int]:
    """Cut a row of costs into parts so that the largest part is smallest; among those, the sum of squares is.

    Args:
        cumulative: growing; the cost of everything up to each place, the whole cost last.
        parts: how many; at most `len(cumulative)`.
        end_costs: what the part that ends at each place costs beside; by default nothing.

    Returns:
        `parts - 1` places (indices into `cumulative`) after which to cut, in order.
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
    """The cuts with the least sum of squares of which no part is larger than `bound`, by dynamic programming."""
    last = max(end for _, end in sizes)
    best: dict[int, tuple[int, tuple[int, ...]]] = {-1: (0, ())}  # by the place up to which all is cut; -1: nothing
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
