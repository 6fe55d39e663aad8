"""Put settings that the library names as those of Python, such as `resize=pad`, into the words of the command line."""

from __future__ import annotations

import functools
import re

QUOTED = re.compile(r"`(?:Budget\((?P<cost>[a-z_]+)=(?P<limit>[^`]*)\)|(?P<name>[a-z_]+)(?:=(?P<value>[^`]*))?)`")
NAMES = {"name": "--data", "data_path": "--data"}  # settings whose options are called otherwise
COSTS = {"parameters": "params", "size_bytes": "size"}


def with_options(text: str) -> str:
    """Write settings between backticks as options: `resize=pad` as --resize pad, `Budget(flops='1G')` by its cost."""
    return QUOTED.sub(_option, text) if "`" in text else text


def _option(match: re.Match[str]) -> str:
    cost, name = match["cost"], match["name"]
    option = _options().get(f"budget_{COSTS.get(cost, cost)}" if cost else name)
    value = (match["limit"] or "").strip("'") if cost else match["value"] or ""
    if option is None:
        return match[0]
    return option if value in ("", "True") else f"{option} {value}"


@functools.cache
def _options() -> dict[str, str]:
    """Return the options of all commands, by the names of their settings."""
    import typer

    from lctprune.cli.main import app

    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]  # of a group
    found = {}
    for each in (parameter for command in commands for parameter in command.params):
        if long := [option for option in each.opts if option.startswith("--")]:
            found[each.name] = long[0]
    return found | NAMES
