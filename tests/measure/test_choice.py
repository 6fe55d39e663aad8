"""Choosing by a rule, and paired tests: against scipy, brute force and worked examples."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

import lctprune as lct
from lctprune.errors import BudgetError, ConfigError
from lctprune.measure.answers import answers_of
from lctprune.measure.candidates import MAIN, Candidate
from lctprune.measure.choice import not_faster, select, significantly_worse, straddling
from lctprune.measure.comparison import compared
from lctprune.measure.paired import mcnemar, pairing
from lctprune.measure.rules import Rule
from lctprune.measure.scores import score_exits
from lctprune.measure.selection import Limits

MANY = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def candidate(exit: int, accuracy: float, flops: int | None = 100, **fields: Any) -> Candidate:
    defaults = {"name": f"exit {exit}", "loss": 1.0, "parameters": 10, "latency_ms": 1.0, "size_bytes": 40}
    macs = None if flops is None else flops // 2
    return Candidate(exit=exit, accuracy=accuracy, flops=flops, macs=macs, **{**defaults, **fields})


def answering(exit: int, correct: torch.Tensor, flops: int, targets: torch.Tensor | None = None) -> Candidate:
    """A candidate with these answers, [n]."""
    true = torch.zeros(len(correct), dtype=torch.long) if targets is None else targets
    (answers,) = answers_of(correct[None], true)
    return candidate(exit, correct.double().mean().item(), flops, samples=len(correct), answers=answers)


@MANY
@given(first=st.integers(0, 400), second=st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_published_values() -> None:
    assert mcnemar(121, 59) == pytest.approx(4.434449263755512e-06, rel=1e-9)  # statsmodels' example, from Agresti
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1.0
    assert mcnemar(6, 0) == 2 * 0.5**6
    assert mcnemar(26_000, 24_000) == pytest.approx(binomtest(24_000, 50_000).pvalue, rel=1e-6)


@MANY
@given(samples=st.integers(1, 70), seed=st.integers(0, 99))
def test_pairs_are_counted_as_one_by_one(samples: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    correct = torch.rand(2, samples, generator=generator) < 0.6
    true = torch.randint(-1, 3, (samples,), generator=generator)
    first, second = answers_of(correct, true)
    pairs = [(bool(a), bool(b)) for a, b, t in zip(*correct, true, strict=True) if t >= 0]
    assert first.samples == len(pairs)
    assert first.right == sum(a for a, _ in pairs)
    found = pairing(candidate(0, 0.5, answers=first), candidate(1, 0.5, answers=second))
    assert found is not None
    assert (found.only_first, found.only_second) == (pairs.count((True, False)), pairs.count((False, True)))


def test_other_samples_are_no_pairs() -> None:
    correct, true = torch.ones(9, dtype=torch.bool), torch.arange(9)
    here, there = answering(0, correct, 1, true), answering(1, correct, 2, true.flip(0))
    assert pairing(here, there) is None
    assert pairing(here, candidate(1, 1.0)) is None


def test_the_answers_are_those_of_the_pass_over_the_split(make_network: Any, data: lct.Data) -> None:
    network = make_network().eval()
    scores = score_exits(network, data.val, batch_size=7)
    inputs, targets = next(data.val.batches(30))
    with torch.no_grad():
        expected = torch.stack([output.argmax(1) == targets for output in network.exits(inputs)])
    assert scores.answers == answers_of(expected, targets)
    assert [each.right / 30 for each in scores.answers or []] == pytest.approx(scores.accuracy)


def few_right(samples: int, wrong: Sequence[int]) -> torch.Tensor:
    correct = torch.ones(samples, dtype=torch.bool)
    correct[list(wrong)] = False
    return correct


def test_a_paired_test_finds_what_an_unpaired_one_does_not() -> None:
    best = answering(2, few_right(200, range(20)), 30)
    nested = answering(0, few_right(200, range(26)), 10)  # wrong where the best is, and 6 times more: p = 1/32
    mixed = answering(1, few_right(200, range(10, 35)), 20)  # 15 worse and 10 better
    assert [significantly_worse(each, best) for each in (nested, mixed, best)] == [True, False, False]
    assert not significantly_worse(best, nested)
    unknown = [candidate(each.exit, each.accuracy, each.flops, samples=200) for each in (nested, best)]
    assert not significantly_worse(*unknown)
    candidates = [nested, mixed, best]
    assert select(candidates, lct.Budget()) is best
    assert select(candidates, lct.Budget(), Rule(prefer="cheapest-equivalent")) is mixed
    assert select(candidates, lct.Budget(), Rule(prefer="cheapest")) is nested
    assert lct.cheaper_alternative(candidates, lct.Budget(), best) is mixed


CANDIDATES = st.lists(
    st.tuples(st.sampled_from([0.5, 0.89, 0.9, 0.91]), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=5
)


@MANY
@given(rows=CANDIDATES, drop=st.sampled_from([None, 0, 1.0, 2.0]), least=st.sampled_from([None, 0.9]), data=st.data())
def test_the_rule_agrees_with_brute_force(
    rows: list[tuple[float, int, int]], drop: float | None, least: float | None, data: st.DataObject
) -> None:
    candidates = [candidate(i, a, f, latency_ms=float(t)) for i, (a, f, t) in enumerate(rows)]
    limit = data.draw(st.sampled_from([{}, {"latency_ms": 2}, {"flops": 2}, {"flops": 3, "latency_ms": 3}]))
    rule = Rule(max_drop=drop, min_accuracy=least, prefer=data.draw(st.sampled_from([None, "best", "cheapest"])))
    points = round(100 * rows[-1][0])
    possible = [
        each
        for each in candidates
        if all(getattr(each, cost) <= most for cost, most in limit.items())
        and (drop is None or round(100 * each.accuracy) >= points - drop)
        and (least is None or round(100 * each.accuracy) >= 90)
    ]
    if not possible:
        with pytest.raises(BudgetError):
            select(candidates, Limits(limit), rule)
        return
    chosen = select(candidates, Limits(limit), rule)
    assert chosen in possible
    if rule.preference == "best":
        assert chosen.accuracy == max(each.accuracy for each in possible)
    else:
        cost = "latency_ms" if list(limit) == ["latency_ms"] else "flops"
        assert getattr(chosen, cost) == min(getattr(each, cost) for each in possible)


def test_nothing_is_good_enough() -> None:
    candidates = [candidate(0, 0.80, 10), candidate(1, 0.87, 20), candidate(2, 0.9, 30, name=MAIN)]
    with pytest.raises(
        BudgetError, match=r"at least 89\.00%, at most 1 point below .*exit 1 with 87\.00%, 2 points .* `max_drop=3`"
    ) as raised:
        select(candidates, lct.Budget(flops=25), Rule(max_drop=1.0))
    assert raised.value.nearest is candidates[1]
    assert "it is good enough with `max_drop=3`" in str(raised.value)
    for score in (0.877777, 0.8701, 0.87):
        rows = [candidate(0, score, 20), candidate(1, 0.9, 30, name=MAIN)]
        with pytest.raises(BudgetError, match="is good enough with") as raised:
            select(rows, lct.Budget(flops=25), Rule(max_drop=1.0, min_accuracy=0.95))
        limits = {name: float(value) for name, value in re.findall(r"`(\w+)=([\d.]+)`", str(raised.value))}
        assert select(rows, lct.Budget(flops=25), Rule(**limits)) is rows[0]
    with pytest.raises(BudgetError, match=r"no candidate has .* at least 95%; the nearest is main network"):
        select(candidates, lct.Budget(), Rule(min_accuracy=0.95))
    undefined = [candidate(0, math.nan, metric="R2", loss=math.nan), candidate(1, 0.5, metric="R2")]
    assert select(undefined, lct.Budget(), Rule(max_drop=1)) is undefined[1]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"max_drop": -0.1}, "`max_drop` is -0.1.*between 0 and 100"),
        ({"max_drop": math.nan}, "`max_drop` is nan"),
        ({"max_drop": 101}, "`max_drop` is 101"),
        ({"min_accuracy": 90}, r"`min_accuracy` is 90.*0\.9 for 90%"),
        ({"min_accuracy": -1}, "`min_accuracy` is -1"),
        ({"prefer": "small"}, "prefer is 'small'.*best, cheapest, cheapest-equivalent"),
    ],
)
def test_rules_that_mean_nothing(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        lct.Rule(**rule)


@pytest.mark.parametrize(("metric", "rule"), [("loss", {"max_drop": 1}), ("R2", {"min_accuracy": 0.5})])
def test_limits_of_quality_that_a_metric_does_not_have(metric: str, rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"compared by (its )?{metric}"):
        select([candidate(0, 0.5, metric=metric)], lct.Budget(), Rule(**rule))


@pytest.mark.parametrize(
    ("text", "size"),
    [("5MB", 5e6), ("5 mb", 5e6), ("800kB", 8e5), ("1.5GB", 1.5e9), ("2MiB", 2 * 2**20), ("1KiB", 1024), ("77B", 77)],
)
def test_sizes(text: str, size: float) -> None:
    assert lct.Budget(size_bytes=text).limits(candidate(0, 1.0)) == {"size_bytes": size}
    assert lct.Budget(size_bytes="50%").limits(candidate(0, 1.0, size_bytes=90)) == {"size_bytes": 45}
    for wrong in ("5 apples", "MB", "iB", "5MBB", "-5MB"):
        with pytest.raises(ConfigError, match=r"size_bytes.*5MB"):
            lct.Budget(size_bytes=wrong)


def test_candidates_that_are_flagged() -> None:
    def timed(exit: int, flops: int, low: float, high: float, **fields: Any) -> Candidate:
        middle = (low + high) / 2
        return candidate(exit, 0.5, flops, latency_low_ms=low, latency_ms=middle, latency_high_ms=high, **fields)

    candidates = [timed(0, 10, 1, 2), timed(1, 20, 4, 6), timed(2, 30, 5, 7, name=MAIN), timed(3, 40, 5, 9)]
    assert not_faster(candidates) == [candidates[1]]
    assert straddling(candidates, {"latency_ms": 5.5}) == candidates[1:]
    assert straddling(candidates, {"latency_ms": 2}) == []  # it fits for certain
    assert straddling(candidates, {"flops": 2}) == []
    assert not_faster([candidate(0, 0.5, 10), candidate(1, 0.5, 20, name=MAIN)]) != []  # medians are equal
    assert not_faster([]) == not_faster([candidate(0, 0.5, 10, latency_ms=None), candidate(1, 0.5, 20)]) == []


def test_runs_beside_each_other() -> None:
    best, other = few_right(40, [0]), few_right(40, range(8))
    runs = {"a": [answering(0, other, 10), answering(1, best, 30)], "b": [answering(0, other, 20)]}
    found = compared(runs)
    assert [(each.run, each.candidate.exit, each.on_front) for each in found] == [
        ("a", 0, True),
        ("a", 1, True),
        ("b", 0, False),
    ]
    assert [each.against_best and each.against_best.p_value for each in found] == [2 * 0.5**7, 1.0, 2 * 0.5**7]
    with pytest.raises(ConfigError, match="a is measured by accuracy and b is measured by R2"):
        compared({"a": runs["a"], "b": [candidate(0, 0.5, metric="R2")]})
    with pytest.raises(ConfigError, match="at least one run"):
        compared({})
