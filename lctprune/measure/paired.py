"""Compare candidates on the samples that they were measured on together: McNemar's exact test."""

from __future__ import annotations

from typing import NamedTuple

from lctprune.measure.candidates import Candidate

LEVEL = 0.05  # of significance


class Pairing(NamedTuple):
    """Two candidates on the same samples.

    Attributes:
        only_first: number of samples that only the first candidate has right.
        only_second: number of samples that only the second candidate has right.
        p_value: two-sided p-value of McNemar's exact test that both are as often right.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(only_first: int, only_second: int) -> float:
    """Compute the two-sided p-value of McNemar's exact test (McNemar 1947).

    Of the samples that one of two classifiers alone has right, either has half in the mean if both are as good: a
    binomial test.

    Args:
        only_first: number of samples that only the first classifier has right.
        only_second: number of samples that only the second classifier has right.
    """
    from scipy.special import bdtr  # takes half a second to import

    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def pairing(first: Candidate, second: Candidate) -> Pairing | None:
    """Compare two candidates on the same samples; None where they have others, or their answers are not known."""
    if first.answers is None or second.answers is None or first.answers.targets != second.answers.targets:
        return None
    ours, theirs = (int.from_bytes(each.correct) for each in (first.answers, second.answers))
    counts = (ours & ~theirs).bit_count(), (theirs & ~ours).bit_count()
    return Pairing(*counts, mcnemar(*counts))
