"""Cut a row of costs into parts as even as can be. Pure."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence


def balance(cumulative: Sequence[int], parts: int) -> list[int]:
    """Cut a row of costs into parts so that the largest part is smallest; among those, the sum of squares is.

    Args:
        cumulative: growing; the cost of everything up to each place, the whole cost last.
        parts: how many; at most `len(cumulative)`.

    Returns:
        `parts - 1` places (indices into `cumulative`) after which to cut, in order.
    """
    sizes = sorted({end - start for start, end in itertools.combinations([0, *cumulative], 2)})
    smallest = bisect.bisect_left(sizes, True, key=lambda bound: _least_squares(cumulative, parts, bound) is not None)
    cuts = _least_squares(cumulative, parts, sizes[smallest])
    assert cuts is not None  # the whole row in one part is always possible
    return cuts


def _least_squares(cumulative: Sequence[int], parts: int, bound: int) -> list[int] | None:
    """The cuts with the least sum of squares of which no part is larger than `bound`, by dynamic programming."""
    best: dict[int, tuple[int, tuple[int, ...]]] = {-1: (0, ())}  # by the place up to which all is cut; -1: nothing
    for _ in range(parts):
        extended: dict[int, tuple[int, tuple[int, ...]]] = {}
        for end, upto in enumerate(cumulative):
            choices = [
                (squares + size**2, (*cuts, end))
                for start, (squares, cuts) in best.items()
                if start < end and (size := upto - (cumulative[start] if start >= 0 else 0)) <= bound
            ]
            if choices:
                extended[end] = min(choices)
        best = extended
    whole = best.get(len(cumulative) - 1)
    return list(whole[1][:-1]) if whole else None
