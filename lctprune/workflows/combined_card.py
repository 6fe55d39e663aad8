"""The model card of a network that is made of several exits of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lctprune.config.reading import FORMAT
from lctprune.exporting.formats import SUFFIXES
from lctprune.utils.environment import environment
from lctprune.utils.files import sha256, write_json
from lctprune.workflows.loading import LoadedRun, require_recipe
from lctprune.workflows.model_card import MODEL_CARD, input_record, output_record
from lctprune.workflows.readme_card import write_readme


def write_card(loaded: LoadedRun, record: Mapping[str, Any], folder: Path, *, file: str = "model.pt") -> None:
    """Write `model.json` and README.md beside an exported file: how to feed it, and a record of how it was found.

    Args:
        loaded: the run that the exits are of.
        record: what was found, as plain JSON values.
        folder: folder that holds the file.
        file: name of the file.
    """
    recipe, data = require_recipe(loaded.run), loaded.run.config.data
    model = folder / file
    document = {
        "format_version": FORMAT,
        "model": recipe.model,
        "classes": list(data.classes if data else loaded.data.classes),
        "input": input_record(recipe, data) if data else None,
        "output": output_record(recipe, data),
        **record,
        "file": model.name,
        "format": "onnx" if file.endswith(SUFFIXES["onnx"]) else "torchscript",
        "sha256": sha256(model),
        "trained_with": {
            "run": loaded.run.path.resolve().name,
            "checkpoint_sha256": loaded.checkpoint().sha256,
            **loaded.epochs,
        },
        **environment(),
    }
    write_json(folder / MODEL_CARD, document)
    write_readme(folder, document, loaded.run.config)
