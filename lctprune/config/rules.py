"""The names of what may be preferred among candidates that fit a budget."""

from __future__ import annotations

from typing import Literal

Preference = Literal["best", "cheapest", "cheapest-equivalent"]
