"""Say why a network was chosen, and how it does on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lctprune.config.metric import METRIC_NAMES, is_lower_better, score_text
from lctprune.measure.candidates import Candidate, wilson_interval
from lctprune.measure.rules import Rule
from lctprune.reports.explain import explain_choice
from lctprune.reports.formats import percent_interval
from lctprune.reports.tiles import main_score, own_score


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen network, and sentences that say why it was chosen and how it does on the test split."""

    heading: str
    sentences: Sequence[str]


def choice_of(
    candidates: Sequence[Candidate],
    chosen: Candidate | None,
    budget: Mapping[str, float],
    rule: Rule | None,
    test: Mapping[str, Any] | None,
    classes: int,
) -> Choice | None:
    """Return what the page says of the choice; None where nothing was chosen.

    Args:
        candidates: measured candidates.
        chosen: the chosen one.
        budget: plain limits.
        rule: rule by which it was chosen.
        test: its results on the test split.
        classes: number of classes, as for `cheaper_alternative`.
    """
    if chosen is None and test is None:
        return None
    sentences = [] if chosen is None else explain_choice(candidates, chosen, budget, rule, classes=classes)
    if test is not None:
        sentences.append(_test_sentence("the chosen network" if chosen is None else chosen.name, test))
    return Choice(heading="Chosen" if chosen is None else f"Chosen: {chosen.name}", sentences=sentences)


def _test_sentence(name: str, test: Mapping[str, Any]) -> str:
    score, samples = own_score(test), int(test["samples"])
    metric = test.get("metric", "accuracy")
    if score is None:
        return f"Test {metric} of {name} is not defined on these {samples:,} samples."
    interval = ""
    if metric == "accuracy":  # a fraction of samples
        interval = f"95% interval {percent_interval(*wilson_interval(score, samples))}, "
    sentence = f"Test {metric} of {name}: {score_text(score, metric, 2)} ({interval}{samples:,} samples)."
    if (main := main_score(test)) is None:
        return sentence
    difference = f"{100 * (score - main):+.2f} percentage points"
    if is_lower_better(metric):
        difference = f"{score - main:+.4g}"
    elif metric == METRIC_NAMES["r2"]:
        difference = f"{score - main:+.4f}"
    return f"{sentence} The main network's: {score_text(main, metric, 2)}; the difference is {difference}."
