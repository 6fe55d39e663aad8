"""Describe in plain text what was trained and why a candidate was chosen; a page has to escape it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from lctprune.config.metric import best_text, score_text
from lctprune.config.network import NetworkConfig
from lctprune.config.run import DataRecord
from lctprune.errors import BudgetError
from lctprune.measure.candidates import Candidate
from lctprune.measure.choice import cheaper_alternative, select
from lctprune.measure.rules import Rule
from lctprune.measure.selection import Limits, fitting, main_of
from lctprune.measure.units import amount
from lctprune.runs import Run
from lctprune.utils.wording import counted


def describe_run(run: Run) -> dict[str, str]:
    """Return the facts that the config of a run records, by what they are.

    Args:
        run: run with its config.json and its finished epochs.
    """
    config = run.config
    training = config.to_dict()["training"]  # as recorded, without defaults for settings that are missing there
    critics = training if training.get("method", "local-critic") == "local-critic" else {}
    facts = {
        "model": _network(config.network),
        "data": _data(config.data),
        "method": _method(training),
        "epochs": f"{len(run.metrics)} of {training['epochs']}" if "epochs" in training else None,
        "matching": _ramp(
            critics.get("matching"), "0: critics learn from the labels only; 1: they match the next exit's loss"
        ),
        "distill": _ramp(
            critics.get("distill"), "0: critics learn from losses only; 1: from the next exit's outputs only"
        ),
        "precision": _joined(training, {"precision": "{}", "device": "on {}"}, " "),
        "optimisation": _joined(
            {name: value for name, value in training.items() if (name, value) != ("critic_optimizer", "sgd")},
            {
                "batch_size": "batch size {}",
                "optimizer": "{}",
                "lr": "peak learning rate {}",
                "schedule": "{} schedule",
                "critic_optimizer": "critics by {}",
                "seed": "seed {}",
            },
        ),
        "machine": _machine(config.machine),
        "platform": config.machine.get("platform"),
        "versions": ", ".join(f"{name} {version}" for name, version in config.versions.items()),
        "started": _minute(config.created),
        "command": command_text(config.command),
    }
    return {term: str(fact) for term, fact in facts.items() if fact}


def validation_data(run: Run) -> str:
    """Name the samples that a run's candidates were measured on, for a title.

    Args:
        run: run with its config.json.
    """
    data = run.config.data
    if data is None:
        return "validation split of data made in a program"
    count = data.samples.get("val")
    return f"{PurePath(data.config.name).name}, {f'{count:,} ' if count else ''}validation samples"


def explain_choice(
    candidates: Sequence[Candidate],
    chosen: Candidate,
    budget: Mapping[str, float],
    rule: Rule | None = None,
    *,
    classes: int = 0,
) -> list[str]:
    """Say why a candidate was chosen, or that it would not be chosen now because the run has changed.

    Args:
        candidates: candidates to choose from.
        chosen: chosen candidate.
        budget: plain limits by the name of the cost; empty if there was none.
        rule: rule by which it was chosen; by default the best is chosen.
        classes: number of classes, as for `cheaper_alternative`.

    Raises:
        ConfigError: a limit is not a positive number.
    """
    limits = Limits(budget)
    possible = fitting(candidates, limits)
    asked = " and ".join(f"at most {amount(limit, cost)}" for cost, limit in budget.items())
    scope = f"{len(possible)} of {len(candidates)} candidates that fit the budget ({asked})"
    scope = scope if budget else f"{len(candidates)} candidates; no budget was given"
    score = f"validation {chosen.metric} {score_text(chosen.score, chosen.metric)}"
    best = best_text(chosen.metric)
    if chosen not in possible:
        return [f"As measured now it does not fit the budget ({asked}): {score}. Select again."]
    if rule is not None and rule.preference != "best":
        return _by_rule(candidates, chosen, limits, rule, f"{score} of the {scope}")
    if chosen.merit < max(candidate.merit for candidate in possible):
        return [f"It is not {best} now: {score}. There are {scope}. Select again."]
    sentences = [f"It is {best} ({score}) of the {scope}."]
    if costs := [f"{amount(getattr(chosen, c), c)} (limit {amount(limit, c)})" for c, limit in budget.items()]:
        sentences.append(f"It costs {', '.join(costs)}.")
    if other := cheaper_alternative(candidates, limits, chosen, classes=classes):
        assert other.flops is not None  # its FLOPs were compared
        cost = amount(other.flops, "flops")
        sentences.append(
            f"These samples do not show a cheaper one to be worse at the 5% level: "
            f"{other.name}, validation {other.metric} {score_text(other.score, other.metric)}, {cost}."
        )
    return sentences


def _by_rule(candidates: Sequence[Candidate], chosen: Candidate, limits: Limits, rule: Rule, found: str) -> list[str]:
    main = main_of(candidates)
    wanted = f" with {rule.text(main)}" if rule.has_limits else ""
    equivalent = " that is not significantly worse than the best" if rule.preference == "cheapest-equivalent" else ""
    try:
        if select(candidates, limits, rule) is chosen:
            return [f"It is the cheapest{wanted}{equivalent}: {found}."]
    except BudgetError:
        pass
    return [f"As measured now it is not the cheapest{wanted}{equivalent}: {found}. Select again."]


def _network(recipe: NetworkConfig | None) -> str:
    if recipe is None:
        return "made in a program"
    kinds = ", ".join(dict.fromkeys(recipe.critic_kinds or [recipe.critic]))
    return (
        f"{recipe.model}, {recipe.groups} layer groups, critics of kind {kinds}, {recipe.num_outputs} outputs, "
        f"input {_input(recipe)}"
    )


def _input(recipe: NetworkConfig) -> str:
    if recipe.vocabulary:
        return f"sentences, {recipe.vocabulary:,} different words"
    if recipe.features:
        return f"sequences of {recipe.features} numbers per step" if recipe.steps else f"{recipe.features} numbers"
    return f"{recipe.in_channels} x {recipe.image_size} x {recipe.image_size}"


def _data(recorded: DataRecord | None) -> str:
    if recorded is None:
        return "made in a program"
    samples = ", ".join(f"{name} {count:,}" for name, count in recorded.samples.items())
    outputs = f"{len(recorded.classes)} classes" if recorded.classes else "regression"
    return f"{recorded.config.name}, {outputs}; samples: {samples}"


def _machine(machine: Mapping[str, Any]) -> str:
    counted = {
        name: f"{machine[name]} {name[:-1] if machine[name] == 1 else name}"
        for name in ("cores", "threads")
        if machine.get(name) is not None
    }
    return _joined({**machine, **counted}, {"cpu": "{}", "cores": "{}", "threads": "{}", "gpu": "GPU {}"})


def _minute(created: str) -> str:
    """Write a time of ISO 8601 to the minute, in UTC; any other text stays as it is."""
    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if time.tzinfo else f"{time:%Y-%m-%d %H:%M}"


def command_text(command: Sequence[str]) -> str:
    """Write a command without the folder of its program."""
    return shlex.join([PurePath(command[0]).name, *command[1:]]) if command else ""


def _method(training: Mapping[str, Any]) -> str | None:
    blocks = training.get("blocks")
    return training.get("method") if blocks is None else f"{training.get('method')} in {counted(blocks, 'block')}"


def _ramp(weight: object, meaning: str) -> str | None:
    """Describe a weight, which may be a ramp over training; None where it was not recorded."""
    if weight is None:
        return None
    start, colon, end = str(weight).partition(":")
    return f"{f'a ramp from {start} to {end} over training' if colon else start} ({meaning})"


def _joined(values: Mapping[str, Any], parts: Mapping[str, str], separator: str = ", ") -> str:
    return separator.join(text.format(values[name]) for name, text in parts.items() if values.get(name) is not None)
