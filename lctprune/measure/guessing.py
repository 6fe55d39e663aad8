"""Tell candidates from guessing: is a score better than that of a network which has learned nothing?"""

from __future__ import annotations

from collections.abc import Sequence

from lctprune.config.metric import interval_text, score_text
from lctprune.measure.candidates import Candidate
from lctprune.measure.rules import OF_CLASSES


def may_be_chance(candidate: Candidate, classes: int) -> bool:
    """Tell whether guessing may reach the score of a candidate: its 95% interval contains one part in `classes`.

    Args:
        candidate: measured candidate.
        classes: number of classes; 0 where there are none, or where that is not known, and so nothing is chance.
    """
    if classes < 2 or candidate.metric not in OF_CLASSES or candidate.score is None:
        return False
    is_known = candidate.accuracy_error is not None or (candidate.samples and candidate.metric == "accuracy")
    return (candidate.score_interval[0] if is_known else candidate.score) <= 1 / classes


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
    return f"the {which} network has {score} (95% interval {interval}) on {classes} classes, which may be chance"
