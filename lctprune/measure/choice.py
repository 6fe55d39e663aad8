"""Choose one candidate: the best within a budget, or the cheapest that is good enough.

All functions here are pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lctprune.config.metric import is_lower_better
from lctprune.measure.candidates import Candidate, Cost
from lctprune.measure.guessing import may_be_chance
from lctprune.measure.misses import nothing_fits
from lctprune.measure.paired import LEVEL, pairing
from lctprune.measure.rules import Rule, nothing_is_good_enough
from lctprune.measure.selection import Budget, Limits, fitting, limits_of, main_of
from lctprune.measure.units import COSTS


def select(candidates: Sequence[Candidate], budget: Budget | Limits, rule: Rule | None = None) -> Candidate:
    """Choose the candidate to deploy within a budget: by default the best by the candidates' metric.

    Among equally good candidates the best is the one with the fewest FLOPs. The cheapest is the one with the fewest
    FLOPs, or if the budget limits one other cost only, the one with the least of that. A candidate is equivalent to the
    best if it is not significantly worse, see `significantly_worse`.

    Args:
        candidates: measured candidates.
        budget: budget, or its limits in absolute units from `Budget.limits`.
        rule: what is chosen of the candidates that fit; by default the best.

    Raises:
        BudgetError: no candidate fits; the error names the nearest.
        ConfigError: the candidates' metric has no such limit of quality.
    """
    limits, rule = limits_of(candidates, budget), rule or Rule()
    main = main_of(candidates)
    possible = fitting(candidates, limits)
    if not possible:
        raise nothing_fits(candidates, limits, main)
    enough = [each for each in possible if rule.shortfall(each, main) == 0]
    if not enough:
        raise nothing_is_good_enough(possible, rule, main, within=" that fits the budget" if limits else "")
    best = max(enough, key=lambda each: (each.merit, -_cost(each), -each.parameters))
    if rule.preference == "best":
        return best
    cost = compared_cost(limits)
    if rule.preference == "cheapest-equivalent":
        enough = [each for each in enough if each is best or not significantly_worse(each, best)]
    return min(enough, key=lambda each: (_cost(each, cost), -each.merit, each.parameters))


def compared_cost(limits: Mapping[str, float]) -> Cost:
    """Return the cost that decides which candidate is the cheapest: the only one that is limited, else FLOPs."""
    limited = [cost for cost in COSTS if cost in limits]
    return limited[0] if len(limited) == 1 else "flops"


def cheaper_alternative(
    candidates: Sequence[Candidate],
    budget: Budget | Limits,
    chosen: Candidate,
    rule: Rule | None = None,
    *,
    classes: int = 0,
) -> Candidate | None:
    """Return the candidate with the fewest FLOPs within a budget that is not significantly worse than `chosen`.

    Args:
        candidates: measured candidates.
        budget: budget, as in `select`.
        chosen: candidate to compare with, such as the result of `select`.
        rule: rule whose limits of quality the alternative keeps.
        classes: number of classes, so that no candidate is named that may only guess, see `may_be_chance`; by default
            that is not asked.

    Returns:
        The alternative; None where no cheaper candidate is as good.
    """
    rule, main = rule or Rule(), main_of(candidates)
    alternatives = [
        candidate
        for candidate in fitting(candidates, budget)
        if _cost(candidate) < _cost(chosen)
        and not significantly_worse(candidate, chosen)
        and not may_be_chance(candidate, classes)
        and rule.shortfall(candidate, main) == 0
    ]
    return min(alternatives, key=_cost, default=None)


def significantly_worse(candidate: Candidate, chosen: Candidate) -> bool:
    """Tell whether a candidate is significantly worse than another, at 5%.

    Accuracies on the same samples are compared by McNemar's exact test. Where the answers per sample are not known, or
    the metric is another, the 95% interval of the difference of the two scores must not contain 0 (Newcombe 1998,
    method 10, which takes the two as independent and so seldom finds a difference). Where the standard error of a
    score is not known either, a candidate that is not as good is worse.
    """
    paired = pairing(chosen, candidate) if candidate.metric == chosen.metric == "accuracy" else None
    if paired is not None:
        return paired.only_first > paired.only_second and paired.p_value < LEVEL
    is_known = all(each.accuracy_error is not None or each.metric == "accuracy" for each in (candidate, chosen))
    if not is_known or not candidate.samples or not chosen.samples or math.isinf(candidate.merit):
        return candidate.merit < chosen.merit
    return chosen.merit - candidate.merit > math.hypot(
        _reach(chosen, towards_worse=True), _reach(candidate, towards_worse=False)
    )


def straddling(candidates: Sequence[Candidate], limits: Mapping[str, float]) -> list[Candidate]:
    """List the candidates of which it is not certain that they fit: the latency's 95% interval contains the limit."""
    limit = limits.get("latency_ms")
    return [
        each
        for each in candidates
        if limit is not None
        and each.latency_low_ms is not None
        and each.latency_high_ms is not None
        and each.latency_low_ms <= limit < each.latency_high_ms
    ]


def not_faster(candidates: Sequence[Candidate]) -> list[Candidate]:
    """List the candidates that should be faster than another one and are not: the intervals of their latencies meet.

    An exit with fewer FLOPs is compared with the main network, an exit in a reduced precision also with itself in full
    precision. Candidates whose latency is not known are left out; without intervals the medians are compared.
    """
    if not candidates:
        return []
    main, full = main_of(candidates), {each.exit: each for each in candidates if not each.is_reduced}
    found = []
    for each in candidates:
        others = [main] if each.flops is not None and main.flops is not None and each.flops < main.flops else []
        others += [full[each.exit]] if each.is_reduced and each.exit in full else []
        most = _first(each.latency_high_ms, each.latency_ms)
        leasts = [_first(other.latency_low_ms, other.latency_ms) for other in others]
        if most is not None and any(least is not None and most >= least for least in leasts):
            found.append(each)
    return found


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _cost(candidate: Candidate, cost: Cost = "flops") -> float:
    value = candidate.cost(cost)
    return math.inf if value is None else value


def _reach(candidate: Candidate, *, towards_worse: bool) -> float:
    """Return how far the interval of the score reaches in one direction."""
    (low, high), score = candidate.score_interval, candidate.score or 0.0
    return score - low if towards_worse != is_lower_better(candidate.metric) else high - score
