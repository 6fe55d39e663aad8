"""Read the model card of a run's progressive network back, as a stranger's file."""

from __future__ import annotations

import warnings

from lctprune.config.combined import PROGRESSIVE, ProgressiveRecord
from lctprune.config.reading import from_json, parse_object
from lctprune.errors import RunError, RunWarning
from lctprune.utils.files import read_regular
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.model_card import MODEL_CARD


def read_progressive(loaded: LoadedRun) -> ProgressiveRecord | None:
    """Read what `lctprune progressive` made of the run's present checkpoint; None where there is nothing.

    Warns:
        RunWarning: the model card is damaged, or of another checkpoint.
    """
    file, remedy = loaded.run.path / PROGRESSIVE / MODEL_CARD, f"lctprune {PROGRESSIVE} makes it anew"
    try:
        document = parse_object(read_regular(file), file, remedy=remedy)
        record = from_json(ProgressiveRecord, document, "", file=file, remedy=remedy)
    except OSError:
        return None
    except RunError as error:
        warnings.warn(f"{error}; the page does without it", RunWarning, stacklevel=2)
        return None
    if record.trained_with.get("checkpoint_sha256") != loaded.checkpoint().sha256:
        warnings.warn(
            f"{file} is of an earlier checkpoint, and the page does without it: {remedy}", RunWarning, stacklevel=2
        )
        return None
    return record
