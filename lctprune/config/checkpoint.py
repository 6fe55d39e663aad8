"""The header of a checkpoint: how far the training is, and the rows of metrics.csv so far."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lctprune.config.history import Row
from lctprune.config.reading import FORMAT, from_json, parse_object
from lctprune.errors import ConfigError, RunError

MAX_EPOCHS = 10**9


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a checkpoint.

    Attributes:
        epoch: number of whole epochs.
        step: number of steps taken of the next epoch.
        totals: sums of the mean training losses of each exit over these steps.
        history: rows of metrics.csv, one per whole epoch; None in a checkpoint of an earlier version.
    """

    epoch: int
    step: int = 0
    totals: tuple[float, ...] = ()
    history: tuple[Row, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.epoch <= MAX_EPOCHS:
            raise ConfigError(f"epoch is {self.epoch}; it must be between 0 and {MAX_EPOCHS}")
        if self.step < 0 or bool(self.step) != bool(self.totals):
            raise ConfigError(f"step is {self.step} with {len(self.totals)} totals; both must be 0, or neither")
        if self.history is not None and [row.get("epoch") for row in self.history] != [*range(1, self.epoch + 1)]:
            raise ConfigError(f"the history has {len(self.history)} rows; it must have one per epoch, {self.epoch}")

    @classmethod
    def of(cls, metadata: Mapping[str, str], file: Path) -> Header:
        """Read the header from the metadata of a safetensors file.

        Raises:
            RunError: it says nothing that can be used; the message names the field.
        """
        if "training" not in metadata:  # an earlier version's
            text = metadata.get("epoch", "")
            if not (text.isascii() and text.isdigit() and len(text) < len(str(MAX_EPOCHS))):
                raise RunError(f"{file}: epoch is {text[:20]!r}; it must be a whole number; train the run again")
            return cls(epoch=int(text))
        return from_json(cls, parse_object(metadata["training"].encode(), file), "", file=file)

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata of the file."""
        return {
            "epoch": str(self.epoch),
            "training": json.dumps({"format_version": FORMAT, **dataclasses.asdict(self)}),
        }
