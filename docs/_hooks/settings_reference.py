"""MkDocs hook: write the settings of a configuration from its fields, which carry their own help texts.

A line `<!-- settings TrainConfig -->` of a page is replaced by a table of that dataclass's fields.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal, get_args, get_origin

import lctprune
from lctprune.config.fields import types_of

MARKER = re.compile(r"<!-- settings (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the tables where a page asks for them; MkDocs calls this for each page."""
    return MARKER.sub(lambda marker: settings_table(getattr(lctprune, marker[1])), markdown)


def settings_table(config: Any) -> str:
    """Describe every field of a configuration: name, type or choices, default and help text."""
    rows = [_row(field, types_of(config)[field.name]) for field in dataclasses.fields(config)]
    return "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows])


def _row(field: dataclasses.Field[Any], hint: Any) -> str:
    """Describe one field as a row of the table."""
    has_factory = field.default_factory is not dataclasses.MISSING
    default = field.default_factory() if has_factory else field.default  # type: ignore[misc]
    meaning = field.metadata.get("help", "").replace("|", "\\|")
    is_choice = get_origin(hint) is Literal
    kind = ", ".join(f"`{choice!r}`" for choice in get_args(hint)) if is_choice else f"`{field.type}`"
    return f"| `{field.name}` | {kind} | `{default!r}` | {meaning} |"
