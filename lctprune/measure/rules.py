"""By what rule a candidate is chosen of those that fit a budget: how good it must be, and what is preferred."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from lctprune.config.metric import is_lower_better, score_text
from lctprune.config.rules import Preference
from lctprune.errors import BudgetError, ConfigError
from lctprune.measure.candidates import Candidate

ROUNDING = 1e-9  # differences of fractions that are as large as a limit may exceed it by this
OF_CLASSES = ("accuracy", "balanced accuracy", "macro F1")  # metrics beside which an accuracy is known


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is chosen of the candidates that fit a budget.

    Limits of quality are inclusive; None is no limit.

    Attributes:
        max_drop: largest loss against the main network, in points of the metric that candidates are compared by: 1.0 is
            from 91% to 90%, or from an R2 of 0.91 to 0.90.
        min_accuracy: least accuracy, 0 to 1.
        prefer: "best": the best by the metric. "cheapest": the cheapest that is good enough. "cheapest-equivalent": the
            cheapest that is good enough and not significantly worse than the best. By default "cheapest" with a limit
            of quality, and "best" without one.

    Raises:
        ConfigError: a limit is out of its range, or there is no such preference.
    """

    max_drop: float | None = None
    min_accuracy: float | None = None
    prefer: Preference | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise ConfigError(f"`max_drop` is {self.max_drop}; it must be between 0 and 100 points")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            hint = f" ({self.min_accuracy / 100:g} for {self.min_accuracy:g}%)" if 1 < self.min_accuracy <= 100 else ""
            raise ConfigError(f"`min_accuracy` is {self.min_accuracy:g}; it must be between 0 and 1{hint}")
        if self.prefer is not None and self.prefer not in get_args(Preference):
            raise ConfigError(f"prefer is {self.prefer!r}; it must be one of {', '.join(get_args(Preference))}")

    @property
    def has_limits(self) -> bool:
        """Whether quality is limited."""
        return self.max_drop is not None or self.min_accuracy is not None

    @property
    def preference(self) -> Preference:
        """What is preferred, as given or by default."""
        return self.prefer or ("cheapest" if self.has_limits else "best")

    def shortfall(self, candidate: Candidate, main: Candidate) -> float:
        """Compute by how much a candidate's quality is too low, as a fraction; 0 if it is high enough.

        Args:
            candidate: candidate.
            main: main network, which drops are measured from.

        Raises:
            ConfigError: the candidates are compared by a metric that has no such limit.
        """
        missing = [0.0]
        if self.max_drop is not None:
            if is_lower_better(main.metric):
                raise ConfigError(
                    "`max_drop` is in points, and this run is compared by its loss; give a budget instead"
                )
            missing.append(main.merit - candidate.merit - self.max_drop / 100 if main.merit > -math.inf else math.inf)
        if self.min_accuracy is not None:
            if main.metric not in OF_CLASSES:
                raise ConfigError(
                    f"`min_accuracy` needs classes, and this run is compared by {main.metric}; give `max_drop`"
                )
            missing.append(self.min_accuracy - candidate.accuracy)
        return max(math.inf if math.isnan(each) else each if each > ROUNDING else 0.0 for each in missing)

    def text(self, main: Candidate) -> str:
        """Say what is required, for people."""
        parts = []
        if self.max_drop is not None:
            least = score_text(main.merit - self.max_drop / 100, main.metric, 2)
            parts.append(f"a score of at least {least}, at most {_points(self.max_drop)} below the main network's")
        if self.min_accuracy is not None:
            parts.append(f"an accuracy of at least {100 * self.min_accuracy:.6g}%")
        return " and ".join(parts)


def nothing_is_good_enough(
    possible: Sequence[Candidate], rule: Rule, main: Candidate, *, within: str = ""
) -> BudgetError:
    """Make the error that names the candidate which comes nearest.

    Args:
        possible: candidates that fit the budget, none of which is good enough.
        rule: limits of quality.
        main: the main network.
        within: clause that says what else was required.
    """
    nearest = min(possible, key=lambda each: rule.shortfall(each, main))
    shortfall = rule.shortfall(nearest, main)
    missing = f"{_points(100 * shortfall)} too low" if math.isfinite(shortfall) else "its score is not defined"
    remedy = _looser(rule, nearest, main) if math.isfinite(shortfall) else ""
    found = score_text(nearest.accuracy if rule.max_drop is None else nearest.score, nearest.metric, 2)
    return BudgetError(
        f"no candidate{within} has {rule.text(main)}; the nearest is {nearest.name} with {found}, "
        f"{missing}{remedy and f'; it is good enough with {remedy}'}{within and '; a larger budget may help too'}",
        nearest,
        {"score": shortfall} if math.isfinite(shortfall) else {},
    )


def _looser(rule: Rule, nearest: Candidate, main: Candidate) -> str:
    """Write the limits of quality that a candidate keeps in place of those that it misses, rounded so that it does."""
    settings = []
    if rule.max_drop is not None and (drop := 100 * (main.merit - nearest.merit)) > rule.max_drop + 100 * ROUNDING:
        settings.append(f"`max_drop={math.ceil(100 * drop - 100 * ROUNDING) / 100:g}`")
    if rule.min_accuracy is not None and nearest.accuracy + ROUNDING < rule.min_accuracy:
        settings.append(f"`min_accuracy={math.floor(1e4 * nearest.accuracy) / 1e4:g}`")
    return " ".join(settings)


def _points(number: float) -> str:
    return "1 point" if (text := f"{number:.3g}") == "1" else f"{text} points"
