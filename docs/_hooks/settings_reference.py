"""MkDocs hook: write the settings of a configuration from its fields, which carry their own help texts.

A line `<!-- settings TrainConfig -->` of a page is replaced by a table of that dataclass's fields.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import lctprune

MARKER = re.compile(r"<!-- settings (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the tables where a page asks for them; MkDocs calls this for each page."""
    return MARKER.sub(lambda marker: settings_table(getattr(lctprune, marker[1])), markdown)


def settings_table(config: Any) -> str:
    """Describe every field of a configuration: name, type, default and help text."""
    rows = [_row(field) for field in dataclasses.fields(config)]
    return "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows])


def _row(field: dataclasses.Field[Any]) -> str:
    """Describe one field as a row of the table."""
    has_factory = field.default_factory is not dataclasses.MISSING
    default = field.default_factory() if has_factory else field.default  # type: ignore[misc]
    meaning = field.metadata.get("help", "").replace("|", "\\|")
    return f"| `{field.name}` | `{field.type}` | `{default!r}` | {meaning} |"
