"""Compare candidates on some of the samples that they were measured on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from lctprune.errors import RunError
from lctprune.measure.answers import Answers, answers_of
from lctprune.measure.candidates import Candidate


@dataclass(frozen=True)
class Part:
    """Some of the samples of a split.

    Attributes:
        samples: number of samples of the whole split.
        whole: SHA-256 of the true classes of the whole split, see `Answers`.
        taken: a bit per sample of the split, 1 where it belongs to the part, the first sample in the highest bit.
        targets: SHA-256 of the true classes of the part.
    """

    samples: int
    whole: str
    taken: bytes
    targets: str

    @classmethod
    def of(cls, places: Tensor, targets: Tensor) -> Part:
        """Make a part of samples by their places, from the true classes of the whole split, [n], which all count."""
        taken = torch.zeros(len(targets), dtype=torch.bool)
        taken[places] = True
        (bits,) = answers_of(taken[None], targets)
        (inside,) = answers_of(taken[None, taken], targets[taken])
        return cls(bits.samples, bits.targets, bits.correct, inside.targets)

    def answers(self, of: Answers) -> Answers | None:
        """Return answers to the samples of the part; None if they are those to another split."""
        if (of.samples, of.targets) != (self.samples, self.whole):
            return None
        correct, taken = (
            numpy.unpackbits(numpy.frombuffer(bits, numpy.uint8), count=self.samples)
            for bits in (of.correct, self.taken)
        )
        kept = correct[taken.astype(bool)]
        return Answers(len(kept), self.targets, numpy.packbits(kept).tobytes())


def on_part(candidates: Sequence[Candidate], part: Part) -> list[Candidate]:
    """Return candidates with their accuracy on a part of the samples; their loss there is not known.

    Args:
        candidates: candidates that are compared by accuracy, measured on the whole split.
        part: the part.

    Raises:
        RunError: it is not known which samples a candidate has right, or they are samples of another split.
    """
    found = []
    for each in candidates:
        answers = each.answers and part.answers(each.answers)
        if answers is None:
            raise RunError(
                f"it is not recorded which of these validation samples {each.name} has right, so nothing can be "
                "compared on a part of them; measure again with lctprune evaluate"
            )
        accuracy = answers.right / answers.samples
        found.append(
            dataclasses.replace(
                each, accuracy=accuracy, score=accuracy, samples=answers.samples, loss=math.nan, answers=answers
            )
        )
    return found
