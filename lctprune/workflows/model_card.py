"""What model.json says of an exported network: how to feed it, how good it is, what it costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lctprune.data.text import PATTERN
from lctprune.measure.candidates import Candidate, candidate_of
from lctprune.measure.scores import ExitScores
from lctprune.measure.selection import main_of
from lctprune.runs import Run


def candidate_record(candidate: Candidate) -> dict[str, Any]:
    """A candidate as plain JSON values, with the 95% interval of its accuracy."""
    low, high = candidate.accuracy_interval
    loss = candidate.loss if math.isfinite(candidate.loss) else None  # JSON has no infinity
    return dataclasses.asdict(candidate) | {"loss": loss, "accuracy_low": low, "accuracy_high": high}


def describe(run: Run, candidates: Sequence[Candidate], exit: int, scores: ExitScores | None) -> dict[str, Any]:
    """One exit of a run, for whoever has the exported file and nothing else.

    Args:
        run: where the network comes from.
        candidates: all of the run's.
        exit: which.
        scores: of this network and of the main network on the test split, where they were measured.
    """
    recipe, data = run.config["network"], run.config["data"]
    return {
        "model": recipe["model"],
        "exit": exit,
        "classes": data["classes"],
        "input": _input(recipe, data),
        "output": _output(recipe, data),
        "costs_are_for": f"one sequence of {recipe['steps']} steps" if recipe.get("steps") else "one sample",
        "validation": candidate_record(candidate_of(candidates, exit)),
        "test": scores and _on_test(scores, 0),
        "main_network": {
            "validation": candidate_record(main_of(candidates)),
            "test": scores and _on_test(scores, 1),
        },
    }


def _on_test(scores: ExitScores, place: int) -> dict[str, Any]:
    return {"accuracy": scores.accuracy[place], "samples": scores.samples, "metric": scores.metric}


def _input(recipe: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    normalization = {"mean": data["mean"], "std": data["std"]}
    if recipe.get("vocabulary") is not None:
        return {
            "shape": ["batch", "time"],
            "dtype": "int64",
            "preprocessing": (
                "lower-case the sentence, split it by the pattern (Python's re.findall), replace each token by its "
                "place in the vocabulary (1 if it is not there), keep the first max_length; an empty sentence is [1]; "
                "fill up with 0 at the end"
            ),
            "pattern": PATTERN,
            "max_length": data["config"]["max_length"],
            "vocabulary": data.get("vocabulary"),
        }
    if recipe.get("features") is None:
        return {
            "shape": ["batch", recipe["in_channels"], recipe["image_size"], recipe["image_size"]],
            "dtype": "float32",
            "channels": "RGB" if recipe["in_channels"] == 3 else "grey",
            "preprocessing": f"resize the shorter side to {data['resize']}, crop the centre (bilinear, antialiased), "
            "divide by 255, subtract mean, divide by std",
            **normalization,
        }
    if recipe.get("steps") is None:
        return {
            "shape": ["batch", recipe.get("features")],
            "dtype": "float32",
            "columns": data.get("columns"),
            "preprocessing": "subtract mean, divide by std, each of its column",
            **normalization,
        }
    return {
        "shape": ["batch", "time", recipe.get("features")],
        "dtype": "float32",
        "preprocessing": "scale to 0..1, subtract mean, divide by std; steps of zeros at the end are padding",
        **normalization,
    }


def _output(recipe: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    shape = ["batch", recipe["num_outputs"]]
    target = data.get("target")
    if target is None:
        return {"shape": shape, "meaning": "one logit per class; the largest wins"}
    return {"shape": shape, "meaning": "the standardised target: multiply by std, add mean", **target}
