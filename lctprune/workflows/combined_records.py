"""Read the model cards of a run's progressive network and of its ensemble back, as strangers' files."""

from __future__ import annotations

import warnings
from typing import TypeVar

from lctprune.config.combined import Combined, EnsembleRecord, ProgressiveRecord
from lctprune.config.reading import from_json, parse_object
from lctprune.errors import RunError, RunWarning
from lctprune.utils.files import read_regular
from lctprune.workflows.ensemble import ENSEMBLE
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.model_card import MODEL_CARD
from lctprune.workflows.progressive_files import PROGRESSIVE

_Record = TypeVar("_Record", ProgressiveRecord, EnsembleRecord)


def read_combined(loaded: LoadedRun) -> Combined:
    """Read what `lctprune progressive` and `lctprune ensemble` made of the run's present checkpoint.

    Warns:
        RunWarning: a model card is damaged, or of another checkpoint.
    """
    return Combined(
        progressive=_read(loaded, PROGRESSIVE, ProgressiveRecord), ensemble=_read(loaded, ENSEMBLE, EnsembleRecord)
    )


def _read(loaded: LoadedRun, name: str, kind: type[_Record]) -> _Record | None:
    file, remedy = loaded.run.path / name / MODEL_CARD, f"lctprune {name} makes it anew"
    try:
        document = parse_object(read_regular(file), file, remedy=remedy)
        record = from_json(kind, document, "", file=file, remedy=remedy)
    except OSError:
        return None
    except RunError as error:
        warnings.warn(f"{error}; the page does without it", RunWarning, stacklevel=3)
        return None
    if record.trained_with.get("checkpoint_sha256") != loaded.checkpoint().sha256:
        warnings.warn(
            f"{file} is of an earlier checkpoint, and the page does without it: lctprune {name} makes it anew",
            RunWarning,
            stacklevel=3,
        )
        return None
    return record
