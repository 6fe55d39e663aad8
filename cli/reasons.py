"""Say in plain text why a network was chosen, and how it compares with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lctprune.config.metric import best_text, score_text
from lctprune.measure.candidates import Candidate, unsteady
from lctprune.measure.choice import not_faster, select
from lctprune.measure.paired import pairing
from lctprune.measure.rules import Rule
from lctprune.measure.selection import Limits, main_of
from lctprune.measure.units import amount


def reason(candidates: Sequence[Candidate], chosen: Candidate, limits: Mapping[str, float], rule: Rule) -> str:
    """Say by what rule a candidate was chosen."""
    best = best_text(chosen.metric) if rule.preference == "best" else "the cheapest"
    if rule.has_limits:
        best += f" with {rule.text(main_of(candidates))}"
    if rule.preference == "cheapest-equivalent":
        best += " that is not significantly worse than the best"
    if not limits:
        return f"{best}{':' if rule.has_limits else ' of all at'} {shown(chosen)} (no budget was given)"

    bounds = " and ".join(amount(limit, cost) for cost, limit in limits.items())
    return f"{best} that fits {bounds}: {shown(chosen)} on validation"


def against_best(candidates: Sequence[Candidate], chosen: Candidate, limits: Mapping[str, float]) -> str:
    """Compare the chosen candidate with the best that fits; "" if it is as good."""
    best = select(candidates, Limits(limits))
    if best.merit <= chosen.merit:
        return ""
    return f"The best that fits is {best.name}: {shown(best)} on {best.samples} samples{tested(best, chosen)}."


def tested(best: Candidate, other: Candidate) -> str:
    """Give the result of the paired test; "" where there is none."""
    found = pairing(best, other) if best.metric == "accuracy" else None
    if found is None:
        return ""
    return f" ({paired_text(str(found.only_first), best.name, found.only_second, other.name, found.p_value)})"


def paired_text(only_first: str, first: str, only_second: int, second: str, p_value: float) -> str:
    """Write how many samples only one of two networks has right, and the result of the test."""
    only = f"{only_first} that {first} alone has right, {only_second} that {second} alone has"
    return f"{only}; exact McNemar test: p = {p_value:.2g}"


def shown(candidate: Candidate) -> str:
    """Write the score of a candidate."""
    return score_text(candidate.score, candidate.metric)


def latency_against(candidates: Sequence[Candidate], chosen: Candidate) -> str:
    """Say what fraction of the main network's latency a candidate has, where that is known to be less."""
    if chosen in not_faster(candidates):
        return "a latency that is not shown to be lower (the 95% intervals meet)"
    busy = ", as far as a busy machine tells" if unsteady(candidates) else ""
    return f"{fraction(chosen.latency_ms, main_of(candidates).latency_ms)} of the latency{busy}"


def fraction(cost: float | None, whole: float | None) -> str:
    """Write a cost as a percentage of another."""
    return f"{cost / whole:.0%}" if cost is not None and whole else "an unknown fraction"
