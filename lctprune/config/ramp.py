"""A setting that changes linearly over training."""

from __future__ import annotations

import math
from typing import NamedTuple

from lctprune.errors import ConfigError


class Ramp(NamedTuple):
    """A number between 0 and 1 at the start of training and one at its end; equal numbers make a constant.

    `str` gives the canonical text, such as "0.5" or "0:0.5", which `parse` reads back.
    """

    start: float
    end: float

    @classmethod
    def parse(cls, name: str, value: float | str | Ramp) -> Ramp:
        """Read a number, or the text "FROM:TO".

        Args:
            name: name of the setting, for the error message.
            value: number, text, or a ramp that is only checked.

        Raises:
            ConfigError: the value is neither a number nor a ramp, or an end is not between 0 and 1.
        """
        ramp = value if isinstance(value, Ramp) else cls._read(str(value))
        if not all(0 <= each <= 1 for each in ramp):
            raise ConfigError(f"{name} is {value!r}; it must be a number between 0 and 1, or a ramp such as 0:0.5")
        return ramp

    def at(self, progress: float) -> float:
        """Return the value when the fraction `progress` (0 to 1) of all steps is done."""
        return self.start + (self.end - self.start) * progress

    @classmethod
    def _read(cls, text: str) -> Ramp:
        start, colon, end = text.partition(":")
        try:
            return cls(float(start), float(end if colon else start))
        except ValueError:
            return cls(math.nan, math.nan)

    def __str__(self) -> str:
        return f"{self.start:g}" if self.start == self.end else f"{self.start:g}:{self.end:g}"
