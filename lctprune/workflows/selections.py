"""Read the model card of the selected network back, as a stranger's file."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lctprune.config.metric import METRIC_NAMES
from lctprune.config.reading import from_json, parse_object
from lctprune.errors import ConfigError, NetworkError, RunError, RunWarning
from lctprune.measure.candidates import Candidate, candidate_of
from lctprune.measure.rules import Rule
from lctprune.measure.selection import Budget, Limits
from lctprune.measure.units import budget_options
from lctprune.runs import Run
from lctprune.utils.files import read_regular, sha256
from lctprune.workflows.combined_candidates import own_weights
from lctprune.workflows.exported_source import trained_with
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import member_of
from lctprune.workflows.model_card import MODEL_CARD, SELECTED


@dataclass(frozen=True, kw_only=True)
class _OnTest:
    """Figures of a network on the test split; null where JSON has no number."""

    accuracy: float | None
    samples: int
    metric: str = "accuracy"
    score: float | None = None
    loss: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= 2**62:
            raise ConfigError(f"samples is {self.samples}; it must be at least 1")
        if self.metric not in METRIC_NAMES.values():
            raise ConfigError(f"metric is {self.metric!r}; it must be one of {', '.join(METRIC_NAMES.values())}")
        if self.accuracy is None and self.score is None and self.metric != "R2":  # which some targets do not have
            raise ConfigError("accuracy and score are missing; one of them must be a number")
        for name, value in {"accuracy": self.accuracy, "score": None if self.metric == "loss" else self.score}.items():
            lowest = -1e300 if self.metric in ("R2", "loss") else 0
            if value is not None and not lowest <= value <= 1:
                raise ConfigError(f"{name} is {value}; it must be between {lowest} and 1")


@dataclass(frozen=True, kw_only=True)
class _Main:
    """The main network beside the selected one."""

    test: _OnTest | None


@dataclass(frozen=True, kw_only=True)
class _Card:
    """The fields of a model card that are read back."""

    exit: int
    combined: Literal["", "ensemble", "progressive"] = ""
    precision: str = "float32"
    file: str
    sha256: str
    trained_with: dict[str, Any]
    test: _OnTest | None
    main_network: _Main
    budget: dict[str, float]
    rule: Rule = field(default_factory=Rule)
    mean_flops: bool = False

    def __post_init__(self) -> None:
        if self.file != Path(self.file).name or not self.file:
            raise ConfigError(f"file is {self.file[:60]!r}; it must be the name of the exported file")
        if self.test is not None and self.main_network.test is None:
            raise ConfigError("main_network.test is missing")
        Limits(self.budget)


def read_selection(run: Run | LoadedRun) -> dict[str, Any] | None:
    """Read the model card of the selected network; None if there is none, or it is of another checkpoint or network.

    Warns:
        RunWarning: the model card is damaged.
    """
    loaded = LoadedRun.of(run)
    path = loaded.run.path / SELECTED / MODEL_CARD
    try:
        document = parse_object(read_regular(path), path, remedy="select again")
        card = from_json(_Card, document, "", file=path, remedy="select again")
        digest = sha256(path.parent / card.file)
    except OSError:
        return None
    except RunError as error:
        warnings.warn(f"{error}; the page and the plots do without it", RunWarning, stacklevel=2)
        return None
    try:
        expected = own_weights(loaded) if card.combined else trained_with(loaded, member_of(loaded, card.exit))
    except NetworkError:  # the exit is gone
        return None
    is_of_run = all(card.trained_with.get(name) == expected.get(name) for name in ("checkpoint_sha256", "added"))
    return document if is_of_run and card.sha256 == digest and card.test is not None else None


def chosen_before(folder: Path | None) -> str:
    """Return the name of the network whose model card stands in a folder; "" where there is none, or it is damaged."""
    if folder is not None:
        path = folder / MODEL_CARD
        with suppress(OSError, RunError):
            measured = parse_object(read_regular(path), path, remedy="").get("validation")
            if isinstance(measured, dict) and isinstance(name := measured.get("name"), str):
                return name
    return ""


def asked_before(folder: Path | None) -> tuple[Budget | None, list[str]]:
    """Return the budget of the model card in a folder, and all options of its selection; nothing where there is none.

    Args:
        folder: folder of what was selected, from whatever checkpoint.
    """
    if folder is not None:
        with suppress(OSError, RunError, ConfigError, LookupError, TypeError):  # of a damaged file
            document = parse_object(read_regular(folder / MODEL_CARD), folder / MODEL_CARD, remedy="")
            budget = Budget(**Limits(document["budget"]))
            options = budget_options(budget.given)
            for name, value in dataclasses.asdict(Rule(**document.get("rule", {}))).items():
                options += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
            return budget, options
    return None, []


def chosen_among(candidates: Sequence[Candidate], selection: Mapping[str, Any]) -> Candidate | None:
    """Find the selected network among candidates; None if they were measured without its precision.

    One of several exits is the selected one if it has its exits and its accuracy: numbers of these change.
    """
    if selection.get("combined"):
        own = selection.get("validation")
        own = own if isinstance(own, Mapping) else {}
        return next(
            (
                each
                for each in candidates
                if (each.combined, each.name, each.flops, each.accuracy)
                == (selection["combined"], own.get("name"), own.get("flops"), own.get("accuracy"))
            ),
            None,
        )
    try:
        return candidate_of(candidates, selection["exit"], selection.get("precision", ""))
    except NetworkError:
        return None
