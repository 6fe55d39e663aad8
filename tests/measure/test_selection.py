"""Selection: the Pareto front and the best candidate under a budget, against brute force."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

import lctprune as lct
from lctprune.errors import BudgetError, ConfigError
from lctprune.measure.candidates import MAIN, Candidate, left_out, wilson_interval
from lctprune.measure.guessing import chance_note, guessed, may_be_chance, samples_to_tell
from lctprune.measure.selection import Limits, fitting, main_of, near_misses, parse_limit
from lctprune.measure.units import COSTS, budget_options

MANY = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def candidate(exit: int, accuracy: float, flops: int | None = 100, **fields: Any) -> Candidate:
    defaults = {
        "name": f"exit {exit}",
        "loss": 1.0,
        "macs": None if flops is None else flops // 2,
        "parameters": 10,
        "latency_ms": 1.0,
        "size_bytes": 40,
    }
    return Candidate(exit=exit, accuracy=accuracy, flops=flops, **{**defaults, **fields})


@st.composite
def candidate_lists(draw: st.DrawFn, *, samples: st.SearchStrategy[int | None] | None = None) -> list[Candidate]:
    """Few values, so that ties are common; any cost but the number of parameters may be missing."""
    missing = draw(st.booleans())
    possible = [None, 2, 4, 6, 8] if missing else [2, 4, 6, 8]
    return [
        candidate(
            exit,
            draw(st.sampled_from([0.5, 0.6, 0.7, 0.75])),
            draw(st.sampled_from(possible)),
            parameters=draw(st.integers(1, 4)),
            latency_ms=draw(st.sampled_from([None, 0.5, 1.0, 1.5] if missing else [0.5, 1.0, 1.5])),
            samples=draw(samples) if samples is not None else None,
        )
        for exit in range(draw(st.integers(1, 5)))
    ]


LIMITS = {
    "flops": st.sampled_from([None, 1, 2, 3.0, 5, 8, "8", "50%", "100%"]),
    "macs": st.sampled_from([None, 1, 2.5, "4"]),
    "parameters": st.sampled_from([None, 1, 2, 3, "60%"]),
    "latency_ms": st.sampled_from([None, 0.4, 0.5, 1.2, "90%"]),
}
LIMIT_DICTS = st.fixed_dictionaries(LIMITS)


def resolved(given_limits: dict[str, Any], candidates: Sequence[Candidate]) -> dict[str, float] | None:
    """Limits as numbers; None where a percentage is of something unknown."""
    limits = {}
    for cost, limit in given_limits.items():
        if limit is None:
            continue
        whole = getattr(candidates[-1], cost)
        if isinstance(limit, str) and limit.endswith("%"):
            if whole is None:
                return None
            limits[cost] = float(limit[:-1]) / 100 * whole
        else:
            limits[cost] = float(limit)
    return limits


def fits(candidate: Candidate, limits: dict[str, float]) -> bool:
    return all(
        getattr(candidate, cost) is not None and getattr(candidate, cost) <= limit for cost, limit in limits.items()
    )


# --- Pareto front ----------------------------------------------------------------------------------------------------


def dominates(left: Candidate, right: Candidate, cost: str) -> bool:
    a, b = getattr(left, cost), getattr(right, cost)
    return left.accuracy >= right.accuracy and a <= b and (left.accuracy > right.accuracy or a < b)


@MANY
@given(candidates=candidate_lists(), cost=st.sampled_from(list(COSTS)), data=st.data())
def test_the_front_is_what_nothing_dominates(candidates: list[Candidate], cost: str, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(candidates))
    known = [each for each in candidates if getattr(each, cost) is not None]
    expected = [each for each in known if not any(dominates(other, each, cost) for other in known)]
    front = lct.pareto_front(shuffled, cost)
    assert sorted(each.exit for each in front) == sorted(each.exit for each in expected)
    costs = [getattr(each, cost) for each in front]
    assert costs == sorted(costs)


def test_equal_candidates_are_all_on_the_front() -> None:
    candidates = [candidate(0, 0.5, 10), candidate(1, 0.5, 10), candidate(2, 0.5, 11), candidate(3, 0.4, 10)]
    assert [each.exit for each in lct.pareto_front(candidates)] == [0, 1]
    assert lct.pareto_front([]) == []
    assert lct.pareto_front([candidate(0, 0.5, None)]) == []


# --- select ----------------------------------------------------------------------------------------------------------


@MANY
@given(candidates=candidate_lists(), given_limits=LIMIT_DICTS)
def test_select_agrees_with_brute_force(candidates: list[Candidate], given_limits: dict[str, Any]) -> None:
    limits = resolved(given_limits, candidates)
    budget = lct.Budget(**given_limits)
    if limits is None:
        with pytest.raises(ConfigError, match="not measured"):
            lct.select(candidates, budget)
        return
    possible = [each for each in candidates if fits(each, limits)]
    assert fitting(candidates, budget) == possible
    absolute = budget.limits(main_of(candidates))
    assert absolute == pytest.approx(limits)
    assert fitting(candidates, absolute) == possible
    if not possible:
        check_budget_error(candidates, budget, limits)
        return
    best = lct.select(candidates, budget)
    assert best in possible
    assert best.accuracy == max(each.accuracy for each in possible)
    assert lct.select(candidates, absolute) is best
    rivals = [each for each in possible if each.accuracy == best.accuracy]
    if all(each.flops is not None for each in rivals):
        assert best.flops == min(each.flops for each in rivals if each.flops is not None)


def check_budget_error(candidates: list[Candidate], budget: lct.Budget, limits: dict[str, float]) -> None:
    def worst_factor(each: Candidate) -> float:
        costs = {cost: getattr(each, cost) for cost in limits}
        return max(math.inf if cost is None else cost / limits[name] for name, cost in costs.items())

    with pytest.raises(BudgetError, match="no candidate fits") as caught:
        lct.select(candidates, budget)
    smallest = min(worst_factor(each) for each in candidates)
    nearest, misses = caught.value.nearest, caught.value.misses
    if math.isinf(smallest):
        assert nearest is None
        assert misses == {}
        return
    assert nearest in candidates
    assert worst_factor(nearest) == pytest.approx(smallest)
    expected = {cost: getattr(nearest, cost) / limit for cost, limit in limits.items()}
    assert misses == pytest.approx({cost: factor for cost, factor in expected.items() if factor > 1})
    assert nearest.name in str(caught.value)


def test_without_a_limit_the_most_accurate_wins() -> None:
    candidates = [candidate(0, 0.5, 10), candidate(1, 0.7, 20), candidate(2, 0.6, 30)]
    assert lct.select(candidates, lct.Budget()).exit == 1


def test_limits_are_inclusive() -> None:
    candidates = [candidate(0, 0.5, 10), candidate(1, 0.7, 20)]
    assert lct.select(candidates, lct.Budget(flops=20)).exit == 1
    assert lct.select(candidates, lct.Budget(flops=19.99)).exit == 0
    assert lct.select(candidates, lct.Budget(flops="100%")).exit == 1
    assert lct.select(candidates, lct.Budget(flops="50%")).exit == 0


def test_several_budgets_hold_at_once() -> None:
    candidates = [
        candidate(0, 0.5, 10, parameters=1, latency_ms=9.0),
        candidate(1, 0.6, 20, parameters=9, latency_ms=1.0),
        candidate(2, 0.7, 30, parameters=5, latency_ms=5.0),
        candidate(3, 0.8, 40, parameters=9, latency_ms=9.0),
    ]
    assert lct.select(candidates, lct.Budget(flops=30, parameters=5)).exit == 2
    assert lct.select(candidates, lct.Budget(flops=29, latency_ms=5)).exit == 1
    assert lct.select(candidates, lct.Budget(parameters="60%", macs=5)).exit == 0
    with pytest.raises(BudgetError) as caught:
        lct.select(candidates, lct.Budget(flops=20, parameters=5, latency_ms=5))
    # factors: exit 0 misses by 9/5, exit 1 by 9/5, exit 2 by 30/20, exit 3 by 2
    assert caught.value.nearest == candidates[2]
    assert caught.value.misses == {"flops": 1.5}
    assert "30 FLOPs is 1.5 times the limit of 20" in str(caught.value)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (lct.Budget(flops=60), "did you mean 60%, 600M FLOPs?"),
        (lct.Budget(flops="0.6"), "did you mean 60%, 600M FLOPs?"),
        (lct.Budget(macs=50), "did you mean 50%, 250M MACs?"),
        (lct.Budget(parameters=1), "did you mean 100%, 9k parameters?"),
        (lct.Budget(flops=10), "densify or narrow may add one that fits"),  # as 10% would do no better
        (lct.Budget(flops=1e6), "densify or narrow may add one that fits"),
        (lct.Budget(latency_ms=0.6), "densify or narrow may add one that fits"),
    ],
)
def test_a_budget_that_nothing_fits_names_the_remedy(budget: lct.Budget, words: str) -> None:
    candidates = [candidate(0, 0.7, 4e8, parameters=5000), candidate(1, 0.9, 1e9, parameters=9000)]
    with pytest.raises(BudgetError) as caught:
        lct.select(candidates, budget)
    assert words in str(caught.value)
    assert "is 400 times the limit of 1M FLOPs" in str(caught.value) or budget.flops != 1e6


GIVEN_BACK = re.compile(r"`Budget\((\w+)='([^']+)'\)`")


@MANY
@example(costs=[(3_971_584, 1999, 1.0)], limits=(3_970_000, 3000, 2.0))
@example(costs=[(3_000_001, 1999, 1.0)], limits=(3_000_000, 3000, 2.0))
@given(
    costs=st.lists(
        st.tuples(st.integers(200, 10**13), st.integers(1, 10**10), st.floats(1e-3, 1e4)), min_size=1, max_size=3
    ),
    limits=st.tuples(st.integers(200, 10**12), st.integers(1, 10**9), st.floats(1e-3, 1e3)),
)
def test_what_is_printed_to_be_given_back_fits(
    costs: list[tuple[int, int, float]], limits: tuple[int, int, float]
) -> None:
    candidates = [
        candidate(exit, 0.5, flops, size_bytes=size, latency_ms=latency)
        for exit, (flops, size, latency) in enumerate(costs)
    ]
    names = ("flops", "size_bytes", "latency_ms")
    budget = dict(zip(names, limits, strict=True))
    assume(not fitting(candidates, Limits(budget)))
    with pytest.raises(BudgetError) as caught:
        lct.select(candidates, Limits(budget))
    text = str(caught.value)
    assert " 1 times" not in text
    shown = r"([\d.]+\w?(?:B| FLOPs| ms))"
    assert all(value != limit for value, limit in re.findall(rf"{shown} is .*?limit of {shown}", text))
    if "did you mean" not in text:
        given_back = lct.Budget(**{**budget, **dict(GIVEN_BACK.findall(text))})
        assert caught.value.nearest in fitting(candidates, given_back)


def test_near_misses_are_the_better_ones_just_above_the_budget() -> None:
    candidates = [candidate(0, 0.7, 50), candidate(1, 0.9, 61), candidate(2, 0.6, 62), candidate(3, 0.95, 100)]
    assert near_misses(candidates, lct.Budget(flops="60%"), candidates[0]) == [candidates[1]]
    assert near_misses(candidates, lct.Budget(flops="50%"), candidates[0]) == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_ties_go_to_the_cheaper(order: tuple[int, ...]) -> None:
    candidates = [candidate(0, 0.7, 30), candidate(1, 0.7, 20), candidate(2, 0.7, 40)]
    assert lct.select([candidates[place] for place in order], lct.Budget()).exit == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_ties_go_to_fewer_parameters_where_flops_are_unknown(order: tuple[int, ...]) -> None:
    unknown = [candidate(0, 0.7, None, parameters=3), candidate(1, 0.7, None, parameters=5)]
    assert lct.select([unknown[place] for place in order], lct.Budget()).exit == 0
    # FLOPs known of one only: they cannot be compared with the other's parameters
    mixed = [candidate(0, 0.7, 1000, parameters=3), candidate(1, 0.7, None, parameters=5)]
    assert lct.select([mixed[place] for place in order], lct.Budget()).exit == 0


def test_a_missing_cost_does_not_fit() -> None:
    candidates = [candidate(0, 0.5, None), candidate(1, 0.9, None, latency_ms=2.0)]
    with pytest.raises(BudgetError, match="flops was not measured") as caught:
        lct.select(candidates, lct.Budget(flops=1e9))
    assert caught.value.nearest is None
    assert lct.select(candidates, lct.Budget(latency_ms=1.5)).exit == 0
    with pytest.raises(ConfigError, match=r"flops is 50%.* main network.* not measured"):
        lct.select(candidates, lct.Budget(flops="50%"))


def test_candidates_without_the_cost_are_named() -> None:
    candidates = [candidate(0, 0.5, 100), candidate(1, 0.9, None), candidate(2, 0.95, None, latency_ms=None)]
    assert left_out(candidates, ["parameters"]) == ""
    assert left_out(candidates, ["flops", "latency_ms"]) == (
        "left out: exit 1, exit 2, whose flops was not measured; exit 2, whose latency_ms was not measured"
    )
    with pytest.raises(
        BudgetError, match=r"nearest is exit 0: .*\(left out: exit 1, exit 2, whose flops was not"
    ) as caught:
        lct.select(candidates, lct.Budget(flops=50))
    assert caught.value.nearest == candidates[0]


def test_percentages_are_of_the_main_network_wherever_it_stands() -> None:
    candidates = [candidate(1, 0.9, 100), candidate(0, 0.5, 40)]
    assert lct.select(candidates, lct.Budget(flops="40%")).exit == 0
    with pytest.raises(BudgetError):
        lct.select(candidates, lct.Budget(flops="39%"))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_percentages_are_of_what_is_named_the_main_network_where_more_was_added(order: tuple[int, ...]) -> None:
    """Numbers beyond the main network's are of networks that were added to the run."""
    every = [
        candidate(0, 0.5, 40),
        candidate(1, 0.7, 100, name=MAIN),
        candidate(2, 0.6, 60),
        candidate(3, 0.9, 200, parameters=30),
    ]
    candidates = [every[index] for index in order]
    assert main_of(candidates).exit == 1
    assert lct.select(candidates, lct.Budget(flops="60%")).exit == 2
    assert lct.select(candidates, lct.Budget(flops="200%")).exit == 3
    assert lct.select(candidates, lct.Budget(parameters="100%")).exit == 1


@pytest.mark.parametrize("function", [lct.select, fitting])
def test_no_candidates_at_all(function: Any) -> None:
    with pytest.raises(BudgetError, match="no candidates to choose from"):
        function([], lct.Budget(flops=1))


# --- limits as text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "is_share"),
    [
        ("1e9", 1e9, False),
        ("1G", 1e9, False),
        ("1b", 1e9, False),
        ("500M", 5e8, False),
        ("1.5k", 1500, False),
        ("0.2T", 2e11, False),
        (" 2g ", 2e9, False),
        ("60%", 0.6, True),
        ("60 %", 0.6, True),
        ("150%", 1.5, True),
        ("7", 7, False),
        (7, 7, False),
        (0.5, 0.5, False),
    ],
)
def test_limits_are_read(text: float | str, value: float, is_share: bool) -> None:
    limit, share = parse_limit(text)
    assert (float(limit), share) == (pytest.approx(value), is_share)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("5ms", 5), ("0.4 ms", 0.4), ("400us", 0.4), ("400 \u00b5s", 0.4), ("400\u03bcs", 0.4), ("0.1s", 100)],
)
def test_latencies_may_have_a_unit(text: str, value: float) -> None:
    limit, is_share = parse_limit(text, name="latency_ms")
    assert (float(limit), is_share) == (pytest.approx(value), False)
    assert parse_limit("60%", name="latency_ms")[1]
    for cost in ("flops", "latency_ms"):
        with pytest.raises(ConfigError, match="it must be a positive number such as"):
            parse_limit("4 mms" if cost == "latency_ms" else "5ms", name=cost)


def test_a_percentage_is_not_taken_for_one_again() -> None:
    costs = {"accuracy": 0.5, "loss": 1.0, "latency_ms": 1.0, "size_bytes": 1, "macs": 1, "parameters": 1}
    main = lct.Candidate(exit=1, name="main network", flops=50_000, **costs)
    first = lct.Candidate(exit=0, name="first", flops=20_000, **costs)
    for limit, is_asked in ((0.5, True), (50, True), ("0.1%", False)):
        with pytest.raises(lct.BudgetError) as caught:
            lct.select([first, main], lct.Budget(flops=limit))
        assert ("did you mean 50%" in str(caught.value)) is is_asked
        assert ("with `Budget(flops='20k')` it fits" in str(caught.value)) is not is_asked


REFUSED = ["0", "-1", "nan", "inf", "-inf", "abc", "", " ", "%", "k", "-5%", "0%", "nan%", "1e999", "1x", "1kk"]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_positive_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="it must be a positive number such as"):
        parse_limit(text)
    for cost in COSTS:
        with pytest.raises(ConfigError, match=f"budget {cost} is {text!r}"):
            lct.Budget(**{cost: text})


@pytest.mark.parametrize("number", [0, -1, math.nan, math.inf, -math.inf])
def test_numbers_that_are_no_limit_are_refused(number: float) -> None:
    with pytest.raises(ConfigError, match="budget flops is"):
        lct.Budget(flops=number)


def test_limits_in_absolute_units_are_checked() -> None:
    assert dict(Limits({"latency_ms": 2, "flops": 1e6})) == {"flops": 1e6, "latency_ms": 2.0}
    with pytest.raises(KeyError):
        _ = Limits({"flops": 1})["macs"]
    with pytest.raises(ConfigError, match="budget names watts; it may name flops"):
        Limits({"watts": 3})
    with pytest.raises(ConfigError, match="budget macs is -1"):
        Limits({"macs": -1.0})


@MANY
@example(thousandths=1001)
@given(thousandths=st.integers(1, 99_999))
def test_a_candidate_that_costs_exactly_the_written_limit_fits(thousandths: int) -> None:
    whole, rest = divmod(thousandths, 1000)
    budget = lct.Budget(parameters=f"{whole}.{rest:03d}k")
    assert fitting([candidate(0, 0.5, parameters=thousandths)], budget)
    assert not fitting([candidate(0, 0.5, parameters=thousandths + 1)], budget)


@MANY
@example(percent=29, hundredth=1)
@given(percent=st.integers(1, 100), hundredth=st.integers(1, 10_000))
def test_a_candidate_that_costs_exactly_the_share_fits(percent: int, hundredth: int) -> None:
    candidates = [candidate(0, 0.5, percent * hundredth), candidate(1, 0.6, 100 * hundredth)]
    assert candidates[0] in fitting(candidates, lct.Budget(flops=f"{percent}%"))


# --- cheaper_alternative ---------------------------------------------------------------------------------------------


@MANY
@given(
    candidates=candidate_lists(samples=st.sampled_from([None, 0, 10, 200, 100_000])),
    given_limits=LIMIT_DICTS,
)
def test_an_alternative_is_cheaper_fits_and_is_the_cheapest(
    candidates: list[Candidate], given_limits: dict[str, Any]
) -> None:
    limits = resolved(given_limits, candidates)
    assume(limits is not None)
    assert limits is not None
    assume(any(fits(each, limits) for each in candidates))
    assume(all(each.flops is not None for each in candidates))
    budget = lct.Budget(**given_limits)
    chosen = lct.select(candidates, budget)
    alternative = lct.cheaper_alternative(candidates, budget, chosen)
    expected = [
        each.flops
        for each in candidates
        if fits(each, limits) and each.flops < chosen.flops and not clearly_worse(each, chosen)
    ]
    if alternative is None:
        assert expected == []
    else:
        assert fits(alternative, limits)
        assert alternative.flops < chosen.flops
        assert alternative.flops == min(expected)


def clearly_worse(each: Candidate, chosen: Candidate) -> bool:
    """Newcombe 1998, method 10: the interval of the difference, from scipy's Wilson intervals."""
    if not each.samples or not chosen.samples:
        return each.accuracy < chosen.accuracy
    low = scipy_wilson(chosen.accuracy, chosen.samples)[0]
    high = scipy_wilson(each.accuracy, each.samples)[1]
    lower_end = chosen.accuracy - each.accuracy - math.hypot(chosen.accuracy - low, high - each.accuracy)
    return lower_end > 0


def scipy_wilson(accuracy: float, samples: int) -> tuple[float, float]:
    interval = binomtest(round(accuracy * samples), samples).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def test_a_difference_within_chance_names_the_cheaper_one() -> None:
    measured = [(0.70, 10), (0.72, 20), (0.75, 30)]
    few = [candidate(exit, accuracy, flops, samples=100) for exit, (accuracy, flops) in enumerate(measured)]
    assert lct.cheaper_alternative(few, lct.Budget(), few[2]) == few[0]
    many = [dataclasses.replace(each, samples=100_000) for each in few]
    assert lct.cheaper_alternative(many, lct.Budget(), many[2]) is None


@pytest.mark.parametrize(
    ("right", "samples", "classes", "expected"),
    [
        (5, 15, 5, True),
        (8, 15, 5, False),
        (1, 10, 10, True),
        (59, 100, 2, True),
        (60, 100, 2, False),
        (5, 15, 0, False),
    ],
)
def test_what_guessing_may_reach(right: int, samples: int, classes: int, expected: bool) -> None:
    one = candidate(0, right / samples, 10, samples=samples)
    assert may_be_chance(one, classes) is expected
    assert expected is (classes > 0 and scipy_wilson(right / samples, samples)[0] <= 1 / classes)
    other = candidate(1, (right + 1) / samples, 20, samples=samples, name=MAIN)
    found = lct.cheaper_alternative([one, other], lct.Budget(), other, classes=classes)
    assert found is (None if expected else one)
    note = chance_note([one], classes)
    assert (f"{right / samples:.1%}" in note) is (f"on {classes} classes" in note) is expected


@pytest.mark.parametrize(
    ("accuracy", "metric", "expected"),
    [(0.80, "accuracy", True), (0.84, "accuracy", True), (0.92, "accuracy", False), (0.80, "balanced accuracy", False)],
)
def test_always_answering_the_most_frequent_class_is_guessing(accuracy: float, metric: str, expected: bool) -> None:
    one = candidate(0, accuracy, samples=100, most_frequent=0.8, metric=metric, score=accuracy)
    assert may_be_chance(one, 2) is expected
    few = dataclasses.replace(one, samples=3, most_frequent=2 / 3)  # by chance
    assert guessed(few, 2) == 0.5
    note = chance_note([one], 2)
    assert ("always answering the most frequent one has 80.0%" in note) is expected


@pytest.mark.parametrize(("guess", "samples"), [(0.5, 15), (0.8, 50)])
def test_so_many_samples_tell_a_network_from_guessing(guess: float, samples: int) -> None:
    least = samples_to_tell(guess)
    low, fewer = (wilson_interval((1 + guess) / 2, count)[0] for count in (least, least - 1))
    assert low > guess >= fewer
    assert 0.5 * samples <= least <= 1.5 * samples


def test_without_samples_only_an_equally_good_one_is_named() -> None:
    candidates = [candidate(0, 0.69, 10), candidate(1, 0.70, 20), candidate(2, 0.70, 30)]
    assert lct.cheaper_alternative(candidates, lct.Budget(), candidates[2]) == candidates[1]
    assert lct.cheaper_alternative(candidates, lct.Budget(), candidates[1]) is None


def test_an_alternative_must_fit_the_budget() -> None:
    candidates = [candidate(0, 0.7, 10, latency_ms=9.0, samples=50), candidate(1, 0.7, 20, samples=50)]
    assert lct.cheaper_alternative(candidates, lct.Budget(latency_ms=2), candidates[1]) is None
    assert lct.cheaper_alternative(candidates, lct.Budget(), candidates[1]) == candidates[0]


def test_an_alternative_is_not_called_cheaper_when_its_flops_are_unknown() -> None:
    candidates = [candidate(0, 0.7, None, parameters=50, samples=50), candidate(1, 0.7, 100, parameters=10, samples=50)]
    assert lct.cheaper_alternative(candidates, lct.Budget(), candidates[1]) is None


# --- Wilson's interval -----------------------------------------------------------------------------------------------


@MANY
@given(data=st.data(), samples=st.integers(1, 20_000))
def test_wilsons_interval_is_scipys(data: st.DataObject, samples: int) -> None:
    correct = data.draw(st.integers(0, samples))
    low, high = wilson_interval(correct / samples, samples)
    assert (low, high) == pytest.approx(scipy_wilson(correct / samples, samples), abs=1e-9)
    assert 0 <= low <= high <= 1
    assert low - 1e-12 <= correct / samples <= high + 1e-12


def test_the_interval_of_a_candidate() -> None:
    assert candidate(0, 0.7, samples=50).accuracy_interval == pytest.approx(scipy_wilson(0.7, 50))
    assert candidate(0, 0.7).accuracy_interval == (0.0, 1.0)


def test_budgets_in_suggested_commands_are_whole_numbers_where_costs_are() -> None:
    limits = {"flops": 240844.8, "parameters": 3.0, "latency_ms": 0.35, "size_bytes": 1e300}
    expected = "--budget-flops 240844 --budget-params 3 --budget-latency-ms 0.35 --budget-size 1e+300"
    assert budget_options(limits) == expected.split()
    assert budget_options({"flops": 0.5, "macs": "60%"}) == ["--budget-flops", "0.5", "--budget-macs", "60%"]
