"""The answers of each candidate per sample, as candidates.json has them: so that paired tests need no measurement."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lctprune.config.runtime import REDUCED
from lctprune.errors import ConfigError
from lctprune.measure.answers import Answers
from lctprune.measure.candidates import Candidate

MOST_SAMPLES = 2**31


def answers_record(candidates: Sequence[Candidate]) -> dict[str, Any] | None:
    """Return the answers of all candidates as plain JSON values; None where those of one are not known."""
    known = {str(each.key): each.answers for each in candidates if each.answers is not None}
    if len(known) < len(candidates) or len({(each.samples, each.targets) for each in known.values()}) != 1:
        return None
    first = next(iter(known.values()))
    return {
        "samples": first.samples,
        "targets_sha256": first.targets,
        "encoding": "base64 of one bit per sample, the first in the highest bit; 1 is right",
        "correct": {key: base64.b64encode(each.correct).decode() for key, each in known.items()},
    }


@dataclass(frozen=True, kw_only=True)
class RecordedAnswers:
    """What `answers_record` gives, read back."""

    samples: int
    targets_sha256: str
    correct: dict[str, str]

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= MOST_SAMPLES:
            raise ConfigError(f"answers.samples is {self.samples}; it must be between 1 and {MOST_SAMPLES}")
        for exit, text in self.correct.items():
            if not re.fullmatch(rf"[0-9]{{1,8}}(-({'|'.join(REDUCED)}))?", exit):
                raise ConfigError(f"answers.correct has {exit[:20]!r}; it must have numbers of exits")
            try:
                bits = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                bits = b""
            unused = -self.samples % 8
            if len(bits) != (self.samples + 7) // 8 or bits[-1] & ((1 << unused) - 1):
                raise ConfigError(f"answers.correct.{exit} is not base64 of {self.samples} bits")

    def by_key(self) -> dict[str, Answers]:
        """Return the answers by the key of the candidate, as text."""
        return {
            key: Answers(self.samples, self.targets_sha256, base64.b64decode(text))
            for key, text in self.correct.items()
        }

    def contradiction(self, exit: int | str, accuracy: float | None) -> str:
        """Say why these are not the answers of a candidate of that key and accuracy; "" if they may be."""
        answers = self.by_key().get(str(exit))
        if answers is None:
            return f"answers.correct has no exit {exit}"
        fraction = answers.right / self.samples
        if accuracy is None or abs(fraction - accuracy) > 1e-9:
            return f"answers.correct.{exit} has a fraction of {fraction:.6g} right; it must be the accuracy, {accuracy}"
        return ""
