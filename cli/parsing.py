"""Turn text of the command line into the values that the library takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from lctprune.config.network import NetworkConfig
from lctprune.config.ramp import Ramp
from lctprune.config.training import TrainConfig
from lctprune.errors import ConfigError

Number = TypeVar("Number", int, float)
RAMPS = ("matching", "distill")
OBJECTIVE = (*RAMPS, "critic_period")  # None unless given


def group_count(network: Mapping[str, Any]) -> int:
    """Return the number of groups from --groups, unless --split-at implies it.

    Raises:
        ConfigError: both are given.
    """
    if network["groups"] is not None and network["split_at"]:
        raise ConfigError("--groups and --split-at both say how many groups there are; give one of them")
    return NetworkConfig.groups if network["groups"] is None else int(network["groups"])


def names(text: str | None) -> tuple[str, ...] | None:
    """Read comma-separated names of different modules, as in --split-at."""
    found = [name.strip() for name in text.split(",")] if text else []
    if twice := [name for name in found if found.count(name) > 1]:
        raise ConfigError(f"{twice[0]} occurs twice in {text!r}; name each module once")
    return tuple(found) or None


def numbers(name: str, text: str | None, kind: Callable[[str], Number]) -> tuple[Number, ...] | None:
    """Read comma-separated numbers of one kind, as in --critic-depth."""
    if not text:
        return None
    try:
        return tuple(kind(number) for number in text.split(","))
    except ValueError as error:
        wanted = "whole numbers, as 1 or 3,2,1" if kind is int else "numbers, as 0.5 or 1,1,0.5"
        raise ConfigError(f"{name} is {text!r}; it must be {wanted}") from error


def arguments(text: str | None) -> dict[str, Any]:
    """Read name=value,... of --model-args; a value is a number, true, false, or else text."""
    pairs = [item.partition("=") for item in text.split(",")] if text else []
    if any(not (name.strip() and equals and value.strip()) for name, equals, value in pairs):
        raise ConfigError(f"model arguments are {text!r}; they must be name=value, as width=64,layers=2")
    return {name.strip(): _value(value.strip()) for name, _, value in pairs}


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    value: int | float | str = text
    for kind in (int, float):
        with suppress(ValueError):
            value = kind(text)
            break
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"a model argument is {text}; it must be a finite number")
    return value


def data_places(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the data with paths as absolute ones, so that a run finds its data anywhere."""
    from lctprune.data.builtin import NAMED

    name = data["name"]
    places = {"data_dir": str(Path(data["data_dir"]).absolute())}
    if name not in NAMED and Path(name).exists():
        places["name"] = str(Path(name).resolve())
    if data["image_root"] is not None:
        places["image_root"] = str(Path(data["image_root"]).absolute())
    return {**data, **places}


def with_objective(training: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Fill in what critics learn where that is not given; where it is, or --blocks, --method auto is local-critic.

    Returns:
        The settings, and what to say of the method.
    """
    given = [name for name in (*OBJECTIVE, "blocks") if training[name] is not None]
    filled = {**training, **{name: getattr(TrainConfig, name) for name in OBJECTIVE if name not in given}}
    if training["method"] != "auto" or not given:
        return filled, None
    note = f"{flag(given[0])} is of local critics, so --method is local-critic"
    return {**filled, "method": "local-critic"}, note


def flag(name: str) -> str:
    """Return the option of a field."""
    return f"--{name.replace('_', '-')}"


def require_effect(method: str, given: Mapping[str, Any]) -> None:
    """Refuse options of `train` that differ from their defaults and change nothing with a method.

    Args:
        method: of `TrainConfig`.
        given: values of the options, by the names of their fields.

    Raises:
        ConfigError: there is such an option.
    """
    # critics' options have an effect with backprop, too: `densify` reads them
    unused = {"joint": OBJECTIVE, "backprop": (*OBJECTIVE, "balance")}.get(method, ())
    if given["freeze_main"] and given["batch_norm"] == "train":
        raise ConfigError("--batch-norm train changes nothing with --freeze-main, which keeps statistics; leave it out")
    defaults = {**vars(NetworkConfig()), **vars(TrainConfig())}
    for name in unused:
        own, plain = (Ramp.parse(name, each) if name in RAMPS else each for each in (given[name], defaults[name]))
        if own != plain:
            raise ConfigError(f"{flag(name)} {given[name]} changes nothing with --method {method}; leave it out")
