"""Hold the answers of networks: what they said of samples, beside what is true, and which of them are right."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy
from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """Which samples of a split a network classified correctly.

    Attributes:
        samples: number of samples.
        targets: SHA-256 of the true classes in their order; networks with other targets cannot be compared in pairs.
        correct: a bit per sample, 1 where it is right, the first sample in the highest bit; filled up with zeros.
    """

    samples: int
    targets: str
    correct: bytes

    @property
    def right(self) -> int:
        """The number of samples that are right."""
        return int.from_bytes(self.correct).bit_count()


@dataclass(frozen=True, kw_only=True)
class NetworkAnswers:
    """Every answer of one network on a split.

    Attributes:
        exit: number of the network's candidate.
        split: name of the split: "validation" or "test".
        targets: class numbers, or numbers to predict in their own unit, [samples].
        answers: numbers of the classes that won, or predictions in the targets' unit, [samples].
        confidence: probability of the class that won, [samples]; None where targets are no classes.
    """

    exit: int
    split: str
    targets: Tensor
    answers: Tensor
    confidence: Tensor | None


class Picture(NamedTuple):
    """A validation image and what each network says of it.

    Attributes:
        image: input of the networks, normalised, [channels, height, width].
        target: number of its class.
        answers: number of the class that won, by the number of the candidate.
        confidence: probability of that class, by the number of the candidate.
    """

    image: Tensor
    target: int
    answers: Mapping[int, int]
    confidence: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class ReportAnswers:
    """Answers for a report.

    Attributes:
        network: answers of one network; None where targets are neither one class nor one number per sample.
        pictures: validation images, those with the most different answers first; empty where inputs are no images or
            targets are no classes.
    """

    network: NetworkAnswers | None
    pictures: Sequence[Picture] = ()


def answers_of(correct: Tensor, true: Tensor) -> list[Answers]:
    """Return the answers of networks to the samples of a split that count.

    Args:
        correct: whether a network has a sample right, [networks, n].
        true: true classes, [n]; a negative one does not count.
    """
    counted = (true >= 0).cpu()
    targets = true.cpu().long()[counted].numpy().astype("<i8")
    digest = hashlib.sha256(targets.tobytes()).hexdigest()
    bits = numpy.packbits(correct.cpu()[:, counted].numpy(), axis=1)
    return [Answers(len(targets), digest, row.tobytes()) for row in bits]
