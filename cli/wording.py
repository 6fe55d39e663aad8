"""Put settings that the library names as those of Python, such as `resize=pad`, into the words of the command line."""

from __future__ import annotations

import dataclasses
import functools
import re

QUOTED = re.compile(r"`(?:Budget\((?P<cost>[a-z_]+)=(?P<limit>[^`]*)\)|(?P<name>[a-z_]+)(?:=(?P<value>[^`]*))?)`")
RENAMED = {"name": "data", "data_path": "data", "parameters": "params", "size_bytes": "size", "run_dir": "out"}
OTHERS = (  # options that are no field of a configuration, and are named in the library
    *("data", "out", "weights", "resume", "dense", "download", "partial", "processes", "replicas"),
    *("runtime", "precision", "with_preprocessing", "trust_code", "keep", "max_drop", "min_accuracy", "budget_flops"),
    "mean_flops",
)


def with_options(text: str) -> str:
    """Write settings between backticks as options: `resize=pad` as --resize pad, `Budget(flops='1G')` by its cost."""
    return QUOTED.sub(_option, text) if "`" in text else text


def _option(match: re.Match[str]) -> str:
    cost = match["cost"]
    name = RENAMED.get(cost or match["name"], cost or match["name"])
    if cost:
        return f"--budget-{name.replace('_', '-')} {match['limit'].strip(chr(39))}"
    if name not in _names():
        return match[0]
    option, value = f"--{name.replace('_', '-')}", match["value"]
    return option if value in (None, "", "True") else f"{option} {value}"


@functools.cache
def _names() -> frozenset[str]:
    from lctprune.config.data import DataConfig
    from lctprune.config.network import NetworkConfig
    from lctprune.config.training import TrainConfig

    fields = (field.name for config in (DataConfig, NetworkConfig, TrainConfig) for field in dataclasses.fields(config))
    return frozenset([*fields, *OTHERS])
