"""Read compress.json back, as a stranger's file."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lctprune.config.reading import from_json, parse_object
from lctprune.errors import ConfigError, RunError
from lctprune.measure.selection import Limits
from lctprune.utils.files import read_regular
from lctprune.workflows.members import FINETUNED, NARROWED

REMEDY = "restore the file from a copy, or begin anew in another run directory"
MOST = 10**9


@dataclass(frozen=True, kw_only=True)
class _Planned:
    stage: str
    what: str
    networks: int
    passes: float
    cost: float

    def __post_init__(self) -> None:
        for name in ("networks", "passes", "cost"):
            _require_within(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class _Entrant:
    exit: int
    is_narrowed: bool
    folder: str
    fraction: float
    what: str
    epochs: int
    part: float
    cost: float
    limits: dict[str, float] | None = None  # of an intermediate size; earlier versions knew none
    further: tuple[dict[str, float], ...] = ()  # likewise

    def __post_init__(self) -> None:
        for name in ("exit", "fraction", "epochs", "cost"):
            _require_within(name, getattr(self, name))
        for limits in (self.limits or {}, *self.further):
            Limits(limits)
        if not 0 < self.part <= 1:
            raise ConfigError(f"part is {self.part}; it must be between 0 and 1")
        if not re.fullmatch(rf"({FINETUNED}|{NARROWED})/[\w.+-]*\w[\w.+-]*", self.folder):
            raise ConfigError(f"folder is {self.folder[:60]!r}; it must be one in {FINETUNED} or {NARROWED}")


@dataclass(frozen=True, kw_only=True)
class _Record:
    """The content of compress.json."""

    config: dict[str, Any]
    budget: dict[str, float]
    unit: str
    plan: tuple[_Planned, ...]
    rounds: tuple[tuple[_Entrant, ...], ...]
    dropped: tuple[int, ...]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        Limits(self.budget)
        if not self.plan:
            raise ConfigError("plan is empty; it must have a line per stage")


def read_record(path: Path) -> dict[str, Any]:
    """Read the state of a compression.

    Raises:
        RunError: the file is damaged; the message names the field.
    """
    try:
        document = parse_object(read_regular(path), path, remedy=REMEDY)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror})") from error
    record = from_json(_Record, document, "", file=path, remedy=REMEDY)
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(record)))  # lists in place of tuples
    plain["config"].setdefault("views", 0)  # of an earlier version
    plain["config"].setdefault("steps", 1)  # likewise
    return plain


def _require_within(name: str, value: float) -> None:
    if not (math.isfinite(value) and 0 <= value <= MOST):
        raise ConfigError(f"{name} is {value}; it must be between 0 and {MOST}")
