"""What was trained and why a candidate was chosen, in words. Plain text: whoever puts it on a page escapes it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lctprune.measure.candidates import Candidate
from lctprune.measure.selection import Budget, cheaper_alternative, fitting
from lctprune.measure.units import amount
from lctprune.reports.formats import percent
from lctprune.runs import Run


def describe_run(run: Run) -> dict[str, str]:
    """Facts of a run by what they are, from its config; what the config does not record is left out.

    Args:
        run: whose config.json and number of epochs are described.
    """
    config, training = run.config, run.config["training"]
    critics = training if training.get("method", "local-critic") == "local-critic" else {}
    facts = {
        "model": _network(config["network"]),
        "data": _data(config["data"]),
        "method": training.get("method"),
        "epochs": f"{len(run.metrics)} of {training['epochs']}" if "epochs" in training else None,
        "matching": _share(
            critics.get("matching"), "0: critics learn from the labels only; 1: they match the next exit's loss"
        ),
        "distill": _share(
            critics.get("distill"), "0: critics learn from losses only; 1: from the next exit's outputs only"
        ),
        "precision": _joined(training, {"precision": "{}", "device": "on {}"}, " "),
        "optimisation": _joined(
            {name: value for name, value in training.items() if (name, value) != ("critic_optimizer", "sgd")},
            {
                "batch_size": "batch size {}",
                "optimizer": "{}",
                "lr": "highest learning rate {}",
                "schedule": "{} schedule",
                "critic_optimizer": "critics by {}",
                "seed": "seed {}",
            },
        ),
        "machine": _joined(
            config.get("machine") or {}, {"cpu": "{}", "cores": "{} cores", "threads": "{} threads", "gpu": "GPU {}"}
        ),
        "platform": (config.get("machine") or {}).get("platform"),
        "versions": ", ".join(f"{name} {version}" for name, version in (config.get("versions") or {}).items()),
        "started": config.get("created"),
        "command": shlex.join(map(str, config.get("command") or [])),
    }
    return {term: str(fact) for term, fact in facts.items() if fact}


def explain_choice(candidates: Sequence[Candidate], chosen: Candidate, budget: Mapping[str, float]) -> list[str]:
    """Sentences that say why a candidate was chosen, or that it would not be now, as the run has changed since.

    Args:
        candidates: that there were to choose from.
        chosen: one of them.
        budget: plain limits by the name of the cost; empty where there was none.

    Raises:
        ConfigError: a limit is not a positive number.
    """
    limits = Budget(**{cost: float(limit) for cost, limit in budget.items()})
    possible = fitting(candidates, limits)
    asked = " and ".join(f"at most {amount(limit, cost)}" for cost, limit in budget.items())
    scope = f"{len(possible)} of {len(candidates)} candidates that fit the budget ({asked})"
    scope = scope if budget else f"{len(candidates)} candidates; no budget was given"
    accuracy = f"validation {chosen.metric} {percent(chosen.accuracy)}"
    if chosen not in possible:
        return [f"As measured now it does not fit the budget ({asked}): {accuracy}. Select again."]
    if chosen.accuracy < max(candidate.accuracy for candidate in possible):
        return [f"It is not the most accurate one now: {accuracy}. There are {scope}. Select again."]
    sentences = [f"It is the most accurate ({accuracy}) of the {scope}."]
    if costs := [f"{amount(getattr(chosen, c), c)} (limit {amount(limit, c)})" for c, limit in budget.items()]:
        sentences.append(f"It costs {', '.join(costs)}.")
    if other := cheaper_alternative(candidates, limits, chosen):
        assert other.flops is not None  # which it was found by
        cost = amount(other.flops, "flops")
        sentences.append(
            f"These samples do not show a cheaper one to be worse (the difference's 95% interval contains 0): "
            f"{other.name}, validation {other.metric} {percent(other.accuracy)}, {cost}."
        )
    return sentences


def _network(recipe: Mapping[str, Any] | None) -> str:
    if recipe is None:
        return "made in a program"
    parts = {"model": "{}", "groups": "{} layer groups", "critic": "critics of kind {}", "num_outputs": "{} outputs"}
    return f"{_joined(recipe, parts)}, input {_input(recipe)}"


def _input(recipe: Mapping[str, Any]) -> str:
    if vocabulary := recipe.get("vocabulary"):
        return f"sentences, {vocabulary:,} different words"
    if features := recipe.get("features"):
        return f"sequences of {features} numbers a step" if recipe.get("steps") else f"{features} numbers"
    return f"{recipe['in_channels']} x {recipe['image_size']} x {recipe['image_size']}"


def _data(recorded: Mapping[str, Any] | None) -> str:
    if recorded is None:
        return "made in a program"
    samples = ", ".join(f"{name} {count:,}" for name, count in recorded["samples"].items())
    outputs = f"{len(recorded['classes'])} classes" if recorded["classes"] else "regression"
    return f"{recorded['config']['name']}, {outputs}; samples: {samples}"


def _share(share: object, meaning: str) -> str | None:
    if share is None:
        return None
    begin, ramp, end = str(share).partition(":")
    return f"{f'a ramp from {begin} to {end} over training' if ramp else begin} ({meaning})"


def _joined(values: Mapping[str, Any], parts: Mapping[str, str], separator: str = ", ") -> str:
    return separator.join(text.format(values[name]) for name, text in parts.items() if values.get(name) is not None)
