"""Fields of configuration dataclasses that carry their own documentation."""

from __future__ import annotations

import dataclasses
from typing import Any


def setting(default: Any, help: str) -> Any:
    """A dataclass field with a default and the sentence that `--help` shows for it."""
    return dataclasses.field(default=default, metadata={"help": help})


def help_of(config: type, name: str) -> str:
    """The sentence that documents a setting."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    return str(fields[name].metadata["help"])
