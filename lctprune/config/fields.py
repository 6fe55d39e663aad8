"""Fields of configuration dataclasses that carry their own documentation, choices and place in `--help`."""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lctprune.errors import ConfigError

# headings of --help
FIRST, DATA, NETWORK, CRITICS, TRAINING = "Options", "Data", "Network", "Critics", "Training"
INPUT = "Input and output"  # of a network that is looked at without data


def setting(default: Any, help: str, *, panel: str | None = None) -> Any:
    """Return a dataclass field with a default and the sentence that `--help` shows for it.

    Args:
        default: default value.
        help: sentence for `--help`, which a newcomer understands.
        panel: heading below which `--help` lists it; by default it is a record, and no option of any command.
    """
    return dataclasses.field(default=default, metadata={"help": help, "panel": panel})


def help_of(config: type, name: str) -> str:
    """Return the sentence that documents a setting."""
    return next(str(field.metadata["help"]) for field in dataclasses.fields(config) if field.name == name)


@functools.cache
def types_of(config: type) -> dict[str, Any]:
    """Return the type of each field."""
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config)}


def without_none(hint: Any) -> Any:
    """Return T for a type `T | None`, and any other type as it is."""
    if get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint):
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    return hint


def require_choices(config: Any) -> None:
    """Check the fields of a dataclass whose type is a `Literal`.

    Raises:
        ConfigError: a field has none of the values that its type allows.
    """
    kind: type = type(config)
    for name, hint in types_of(kind).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(get_args(hint))}")
