"""Export a run's recorded progressive network, as `progressive` does, and measure it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lctprune.config.combined import PROGRESSIVE
from lctprune.errors import ConfigError, NetworkError
from lctprune.exporting.formats import Format
from lctprune.exporting.writing import Converted
from lctprune.measure.candidates import Candidate
from lctprune.measure.scores import ExitScores
from lctprune.measure.selection import main_of
from lctprune.workflows.combined_candidates import combined_of
from lctprune.workflows.deployed import Deployment
from lctprune.workflows.exported_files import FILES, earlier_files, remove_earlier
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.model_card import MODEL_CARD, SELECTED, candidate_record
from lctprune.workflows.progressive import (
    Measured,
    compared_samples,
    convert_progressive,
    measure_progressive,
    progressive_record,
)
from lctprune.workflows.progressive_files import convert_stages, write_progressive
from lctprune.workflows.progressive_fitting import Fitted, fitted_before


def deploy_progressive(
    loaded: LoadedRun,
    candidates: Sequence[Candidate],
    chosen: Candidate,
    folder: Path | None,
    formats: Sequence[Format],
    limits: Mapping[str, Any],
    *,
    with_preprocessing: bool = False,
) -> Deployment:
    """Export the progressive network into a folder, with its model card; measure it on the test split, and its latency.

    Args:
        loaded: the run.
        candidates: its candidates, with the main network.
        chosen: candidate of the progressive network.
        folder: output folder; None to write nothing, and only measure.
        formats: torchscript, onnx (a file per stage), or both.
        limits: budget and rule that led to it, for the model card.
        with_preprocessing: whether the preprocessing is to be in the file, which it cannot be.

    Raises:
        ConfigError: a format has no decisions inside, or `with_preprocessing`.
        ExportError: a file would not do what the network does, or cannot be written.
    """
    require_progressive_formats(formats)
    if with_preprocessing:
        raise ConfigError(
            "a progressive network takes normalised images, and no pixels; leave out `with_preprocessing`"
        )
    recorded = combined_of(loaded, chosen)
    if (goal := recorded.several.goal) is None:
        raise NetworkError(f"{chosen.name} is no progressive network")
    fitted = fitted_before(loaded, recorded)
    scripted, stages, measured = converted_progressive(loaded, fitted, formats)
    test, main = measured.test, main_of(candidates)
    accuracies = [test.accuracy, test.main_accuracy]
    scores = ExitScores(accuracy=accuracies, loss=[float("nan")] * 2, samples=measured.samples, score=accuracies)
    deployment = Deployment.of(scores, loaded.run.config.data)
    if folder is None:
        return deployment
    record = {
        "combined": PROGRESSIVE,
        "exit": chosen.exit,
        "precision": chosen.precision,
        "validation": candidate_record(chosen),
        "main_network": {
            "validation": candidate_record(main),
            "test": {"accuracy": test.main_accuracy, "samples": measured.samples},
        },
        **progressive_record(loaded, fitted, measured, goal),
        **limits,
    }
    is_selected = folder.resolve() == (loaded.run.path / SELECTED).resolve()
    earlier = FILES if is_selected else earlier_files(folder)
    files = write_progressive(loaded, record, folder, scripted=scripted, stages=stages)
    remove_earlier(folder, earlier, [{"file": each.name, "weights": None} for each in files])
    return dataclasses.replace(deployment, model=files[0], models=tuple(files), model_card=folder / MODEL_CARD)


def converted_progressive(
    loaded: LoadedRun, fitted: Fitted, formats: Sequence[str]
) -> tuple[torch.jit.ScriptModule | None, list[Converted], Measured]:
    """Convert a progressive network to the formats that are asked for, and measure it as TorchScript.

    Returns:
        The content of the TorchScript file and those of its stages, where they were asked for, and what was measured.
    """
    scripted = convert_progressive(loaded, fitted)
    stages = convert_stages(fitted.network, compared_samples(loaded)) if "onnx" in formats else []
    return scripted if "torchscript" in formats else None, stages, measure_progressive(loaded, fitted, scripted)


def require_progressive_formats(formats: Sequence[str]) -> None:
    """Refuse formats that a progressive network has none of its decisions in.

    Raises:
        ConfigError: one of them is not torchscript or onnx.
    """
    if unknown := [each for each in formats if each not in ("torchscript", "onnx")]:
        raise ConfigError(f"format {unknown[0]} has no decisions inside; a progressive network is torchscript or onnx")
