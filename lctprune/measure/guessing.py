"""Tell candidates from guessing: is a score better than that of a network which has learned nothing?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from lctprune.config.metric import interval_text, score_text
from lctprune.measure.candidates import Candidate, wilson_interval
from lctprune.measure.rules import OF_CLASSES

FEWEST = 10  # samples that tell anything


def may_be_chance(candidate: Candidate, classes: int) -> bool:
    """Tell whether guessing may reach the score of a candidate: its 95% interval contains that of guessing.

    Guessing reaches one part in `classes`; where these are unbalanced, an accuracy of the most frequent one's part.

    Args:
        candidate: measured candidate.
        classes: number of classes; 0 where there are none, or where that is not known, and so nothing is chance.
    """
    if classes < 2 or candidate.metric not in OF_CLASSES or candidate.score is None:
        return False
    is_known = candidate.accuracy_error is not None or (candidate.samples and candidate.metric == "accuracy")
    return (candidate.score_interval[0] if is_known else candidate.score) <= guessed(candidate, classes)


def guessed(candidate: Candidate, classes: int) -> float:
    """Return the score that guessing reaches: that of the most frequent class where classes clearly are unbalanced."""
    part, frequency = 1 / classes, candidate.most_frequent
    if candidate.metric != "accuracy" or frequency is None or not candidate.samples:
        return part
    return frequency if wilson_interval(frequency, candidate.samples)[0] > part else part


def samples_to_tell(guess: float) -> int:
    """Return the fewest samples that tell an accuracy halfway between guessing and 100% from guessing.

    Args:
        guess: accuracy of guessing.
    """
    return next(count for count in itertools.count(FEWEST) if wilson_interval((1 + guess) / 2, count)[0] > guess)


def chance_note(candidates: Sequence[Candidate], classes: int, chosen: Candidate | None = None) -> str:
    """Say that guessing may reach the score of the chosen network, or of the best if none was chosen; or else "".

    Args:
        candidates: measured candidates.
        classes: number of classes, as for `may_be_chance`.
        chosen: the chosen one.
    """
    subject = chosen or max(candidates, key=lambda each: each.merit)
    if not may_be_chance(subject, classes):
        return ""
    which = "chosen" if chosen else "best"
    score = f"{subject.metric} {score_text(subject.score, subject.metric)}"
    interval = interval_text(*subject.score_interval, subject.metric)
    found = f"the {which} network has {score} (95% interval {interval}) on {classes} classes"
    if (always := guessed(subject, classes)) > 1 / classes:
        return f"{found}, and always answering the most frequent one has {score_text(always, subject.metric)}"
    return f"{found}, which may be chance"
