"""The model card, model.json: how to feed an exported network, how good it is, what it costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from lctprune.config.images import ImagePreprocessing
from lctprune.config.network import NetworkConfig
from lctprune.config.run import DataRecord
from lctprune.data.tables.header import MISSING
from lctprune.data.tokens import FIRST_TOKENIZER, tokenizer_of
from lctprune.measure.candidates import Candidate, candidate_of
from lctprune.measure.scores import ExitScores
from lctprune.measure.selection import main_of
from lctprune.runs import Run
from lctprune.workflows.target_units import root_mean_squared_error

MODEL_CARD, SELECTED = "model.json", "selected"  # the file, and the folder of the network that was chosen in a run


def candidate_record(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate as plain JSON values, with the 95% intervals of its accuracy and its score."""
    record = dataclasses.asdict(dataclasses.replace(candidate, answers=None))
    del record["answers"]  # which candidates.json has beside its candidates
    for name, interval in (("accuracy", candidate.accuracy_interval), ("score", candidate.score_interval)):
        low, high = interval if record[name] is not None and math.isfinite(record[name]) else (None, None)
        record |= {f"{name}_low": low, f"{name}_high": None if high is None else known(high)}
    return record | {name: known(record[name]) for name in ("accuracy", "loss", "score")}


def known(value: float | None) -> float | None:
    """Return a number that JSON has, and None for any other."""
    return value if value is not None and math.isfinite(value) else None


def model_card(
    run: Run,
    candidates: Sequence[Candidate],
    exit: int,
    scores: ExitScores | None,
    classes: Sequence[str] = (),
    *,
    precision: str = "",
) -> dict[str, Any]:
    """Describe one exit of a run, for whoever has the exported file and nothing else.

    Args:
        run: the run that the network comes from.
        candidates: all candidates of the run.
        exit: number of the candidate.
        scores: scores of this network and of the main network on the test split, where they were measured.
        classes: names of the classes, if the run was trained on data made in a program, which is not recorded.
        precision: int8, bf16 or fp16 for the exit in a reduced precision.
    """
    recipe, data = run.config.network, run.config.data
    assert recipe is not None  # or it could not have been loaded
    chosen = candidate_of(candidates, exit, precision)
    return {
        "model": recipe.model,
        "exit": exit,
        "precision": chosen.precision,
        "classes": list(data.classes if data else classes),
        "input": input_record(recipe, data) if data else _unrecorded_input(recipe),
        "output": output_record(recipe, data),
        "costs_are_for": f"one sequence of {recipe.steps} steps" if recipe.steps else "one sample",
        "validation": candidate_record(chosen),
        "test": scores and _on_test(scores, 0, data),
        "main_network": {
            "validation": candidate_record(main_of(candidates)),
            "test": scores and _on_test(scores, 1, data),
        },
    }


def _on_test(scores: ExitScores, index: int, data: DataRecord | None) -> dict[str, Any]:
    return {
        "accuracy": known(scores.accuracy[index]),
        "loss": known(scores.loss[index]),
        "samples": scores.samples,
        "metric": scores.metric,
        "score": known(scores.score[index]),
        "rmse": root_mean_squared_error(scores.loss[index], data),
    }


def input_record(recipe: NetworkConfig, data: DataRecord) -> dict[str, Any]:
    """Say how to make an input of the network, in words and as values that a program can read."""
    normalization = {"mean": list(data.mean), "std": list(data.std)}
    if recipe.vocabulary is not None:
        tokenizer = tokenizer_of(data.tokenizer or FIRST_TOKENIZER)
        return {
            "shape": ["batch", "time"],
            "dtype": "int64",
            "preprocessing": (
                f"{tokenizer.steps}, replace each token by its "
                "place in the vocabulary (1 if it is not there), keep the first max_length; an empty sentence is [1]; "
                "fill up with 0 at the end"
            ),
            "tokenizer": tokenizer.name,
            "normal_form": tokenizer.normal_form,
            "pattern": tokenizer.pattern,
            "max_length": data.config.max_length,
            "vocabulary": None if data.vocabulary is None else list(data.vocabulary),
        }
    if recipe.features is None:
        return {
            "shape": ["batch", recipe.in_channels, recipe.image_size, recipe.image_size],
            "dtype": "float32",
            "channels": "RGB" if recipe.in_channels == 3 else "grey",
            **_image_input(data.preprocessing or ImagePreprocessing.of(recipe.image_size)),
            **normalization,
        }
    if recipe.steps is None:
        return {
            "shape": ["batch", recipe.features],
            "dtype": "float32",
            "columns": None if data.columns is None else list(data.columns),
            **_table_input(data),
            **normalization,
        }
    return {
        "shape": ["batch", "time", recipe.features],
        "dtype": "float32",
        "preprocessing": "scale to 0..1, subtract mean, divide by std; steps of zeros at the end are padding",
        **normalization,
    }


def _table_input(data: DataRecord) -> dict[str, Any]:
    """Say how a row of a table becomes an input, in words and as values that a program can read."""
    standardization = "subtract mean, divide by std, each of its column"
    if data.encoding is None:
        return {"preprocessing": standardization}
    return {
        "preprocessing": (
            "encode each cell as its entry of encoding says, in order: of kind number it is itself, of kind date the "
            "days since 1970-01-01 in UTC, in both fill where it is missing, and with marks_gaps then 1 where it is "
            "missing and else 0; of kind text, one number per category, 1 for its own and else 0 (the category '' is a "
            "missing cell), and with other then 1 for any other text and else 0; a cell is missing if, in lower case "
            "and without blanks around it, it is in missing, or is a text without digits among numbers; "
            f"{standardization}"
        ),
        "missing": sorted(MISSING),
        "encoding": [column.to_dict() for column in data.encoding.used],
    }


def _unrecorded_input(recipe: NetworkConfig) -> dict[str, Any]:
    example = recipe.example
    return {
        "shape": ["batch", *example.shape[1:]],
        "dtype": str(example.dtype).removeprefix("torch."),
        "preprocessing": "that of the program that trained it",
    }


def image_words(steps: ImagePreprocessing) -> tuple[str, str]:
    """Say how an image file becomes pixels, and how pixels become an input."""
    resizing = {
        "crop": f"resize the shorter side to {steps.shorter_side}, crop the centre",
        "pad": f"resize the longer side to {steps.size}, centre it on a square of the background",
        "squeeze": f"resize both sides to {steps.size}",
    }
    before = [
        "turn as the EXIF orientation says" if steps.orientation else "",
        "take floor((value - low) / step), 0 to 255, of more than 8 bits" if steps.values else "",
        "put on the background" if steps.background else "leave out transparency",
    ]
    words = f"{resizing[steps.resize]} (bilinear, antialiased), divide by 255, subtract mean, divide by std"
    return ", ".join(filter(None, before)), words


def _image_input(steps: ImagePreprocessing) -> dict[str, Any]:
    """Say how an image file becomes an input, in words and as values that a program can read."""
    return {
        "preprocessing": ", ".join(image_words(steps)),
        "orientation": "exif" if steps.orientation else "as stored",
        "values": steps.values and dataclasses.asdict(steps.values),
        "background": steps.background and list(steps.background),
        "resize": steps.resize,
        "shorter_side": steps.shorter_side,
        "size": steps.size,
        "interpolation": "bilinear, antialiased",
    }


def output_record(recipe: NetworkConfig, data: DataRecord | None) -> dict[str, Any]:
    """Say what an output of the network is and means."""
    shape = ["batch", recipe.num_outputs]
    if data is None:
        return {"shape": shape, "meaning": "that of the program that trained it"}
    if data.target is None:
        return {"shape": shape, "meaning": "one logit per class; the largest wins"}
    statistics = {"mean": list(data.target.mean), "std": list(data.target.std)}
    return {"shape": shape, "meaning": "the standardised target: multiply by std, add mean", **statistics}
