"""The files of a progressive network: one TorchScript file, or one ONNX file per stage, for a driver of a few lines.

model.pt                 the network with its thresholds inside
stage0.onnx and so on    stages with their critics; the thresholds stand in model.json
model.json               how to feed it, and what became of samples; read back as a stranger's file
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from lctprune.config.combined import PROGRESSIVE, ProgressiveRecord
from lctprune.config.reading import from_json, parse_object
from lctprune.errors import ExportError, RunError, RunWarning
from lctprune.exporting.comparing import BATCHES, repeated
from lctprune.exporting.formats import require_extra
from lctprune.exporting.onnx_model import OUTPUT, onnx_bytes
from lctprune.exporting.programs import to_program
from lctprune.exporting.stages import staged
from lctprune.exporting.writing import Converted, write_exported
from lctprune.progressive import ProgressiveNetwork, agrees, write_scripted
from lctprune.utils.files import read_regular
from lctprune.utils.modules import evaluation_mode
from lctprune.workflows.combined_card import write_card
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.model_card import MODEL_CARD

HIDDEN = "hidden"  # output that the next stage takes
SCRIPTED = "model.pt"


class _Stage(nn.Module):
    """A stage with its critic: calibrated logits, and but for the last stage what the next one takes."""

    def __init__(self, stage: nn.Module, head: nn.Module, temperature: float, *, is_last: bool) -> None:
        super().__init__()
        self.stage, self.head, self.temperature, self.is_last = stage, head, temperature, is_last

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map [batch, ...] to logits, [batch, classes], and features, [batch, ...]."""
        hidden = self.stage(x)
        logits: Tensor = self.head(hidden) / self.temperature
        return logits if self.is_last else (logits, hidden)


def convert_stages(network: ProgressiveNetwork, samples: Tensor) -> list[Converted]:
    """Convert each stage to the content of an ONNX file, and compare what they answer together with the original.

    Args:
        network: progressive network.
        samples: real samples, [batch, ...].

    Raises:
        ConfigError: the extra `onnx` is not installed.
        ExportError: a stage cannot be converted, or answers differ.
    """
    require_extra("onnx")
    contents, x = [], samples
    temperatures, last = network.temperatures.tolist(), len(network.stages) - 1
    with evaluation_mode(network), torch.no_grad():
        for index, (stage, head) in enumerate(zip(network.stages, network.heads, strict=True)):
            part = _Stage(stage, head, temperatures[index], is_last=index == last).eval()
            program = to_program(part, x, name="onnx")
            content = onnx_bytes(part, program, [OUTPUT] if index == last else [OUTPUT, HIDDEN])
            contents.append(Converted("onnx", content, program.length))
            x = stage(x)
        leave = open_stages([io.BytesIO(each.content) for each in contents], network.thresholds.tolist())
        for size in BATCHES:
            if not agrees(network, leave, repeated(samples, size)):
                raise ExportError(
                    f"the stages in ONNX answer otherwise than the progressive network on {size} samples; nothing was "
                    "written"
                )
    return contents


def open_stages(files: Sequence[Any], thresholds: Sequence[float | None]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Open stages in ONNX Runtime; see `staged`."""
    leave = staged(files, thresholds)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        outputs, left = leave(numpy.ascontiguousarray(x.numpy()))
        return torch.from_numpy(outputs), torch.from_numpy(left)

    return run


def stage_name(index: int) -> str:
    """Return the name of a stage's file."""
    return f"stage{index}.onnx"


def write_progressive(
    loaded: LoadedRun,
    record: dict[str, Any],
    folder: Path,
    *,
    scripted: torch.jit.ScriptModule | None,
    stages: Sequence[Converted] = (),
) -> list[Path]:
    """Write the files of a progressive network, and `model.json` beside them; in the run, those of an earlier one go.

    Args:
        loaded: the run.
        record: how it was found, as plain JSON values.
        folder: output folder.
        scripted: the network in TorchScript, for `model.pt`.
        stages: its stages in ONNX.

    Returns:
        The files but for model.json.

    Raises:
        ExportError: the folder cannot be written to.
    """
    described = (
        [
            {
                "file": stage_name(index),
                "sha256": hashlib.sha256(each.content).hexdigest(),
                "threshold": exit["threshold"],
                "fixed_length": each.length,
            }
            for index, (each, exit) in enumerate(zip(stages, record["exits"], strict=True))
        ]
        if stages
        else []
    )
    if scripted is not None:
        write_scripted(scripted, folder / SCRIPTED)
    for each, content in zip(described, stages, strict=True):
        write_exported(folder / each["file"], content)
    names = ([SCRIPTED] if scripted is not None else []) + [each["file"] for each in described]
    write_card(loaded, record | ({"stages": described} if stages else {}), folder, file=names[0])
    if folder.resolve() == (loaded.run.path / PROGRESSIVE).resolve():
        for earlier in [folder / SCRIPTED, *folder.glob("stage[0-9]*.onnx")]:
            if earlier.name not in names:
                earlier.unlink(missing_ok=True)
    return [folder / name for name in names]


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
