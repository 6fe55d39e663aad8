"""Say how an exported file is used, and by which commands a run is made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lctprune.reports.explain import command_text
from lctprune.runs import Run
from lctprune.utils.names import visible

MODEL_CARD = "model.json"
LOADERS = {"torchscript": ("import torch", "torch.jit.load({file!r})")}  # by the format of model.json


@dataclass(frozen=True, kw_only=True)
class Usage:
    """A short program that loads the exported file, and what has to be known besides."""

    lines: Sequence[str]
    note: str


def usage(run: Run, card: Mapping[str, Any], folder: Path) -> Usage | None:
    """Return how the selected network is used; None for a format that has no program here.

    Args:
        run: run that it was selected from.
        card: content of its model.json.
        folder: folder of the file.
    """
    try:
        needs, load = LOADERS[card["format"]]
        taken, given = card["input"], card["output"]
        shapes = f"{taken['dtype']} {_shape(taken['shape'])} to {_shape(given['shape'])}"
        note = f"An input: {taken['preprocessing']}. An output: {given['meaning']}. Numbers: {MODEL_CARD}."
    except (KeyError, TypeError):  # another format, or a card that lacks what the program needs
        return None
    lines = [
        "import json",
        "from pathlib import Path",
        needs,
        "",
        f"network = {load.format(file=visible(str(folder / card['file'])))}",
        f"about = json.loads(Path({visible(str(folder / MODEL_CARD))!r}).read_text())",
        f"outputs = network(inputs)  # {shapes}",
    ]
    if run.config.data and run.config.data.classes:
        lines.append('names = [about["classes"][i] for i in outputs.argmax(1)]')
    return Usage(lines=lines, note=note)


def _shape(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def commands(run: Run, card: Mapping[str, Any] | None) -> list[str]:
    """Return the commands that make the run, its selected network and this page.

    Args:
        run: run that the page is about.
        card: content of the model.json of the selected network.
    """
    recorded = [run.config.command, *([card.get("command")] if card else [])]
    texts = [command_text(each) for each in recorded if each is not None and _is_command(each)]
    return [*texts, run.command("report")]


def _is_command(value: object) -> bool:
    is_list = isinstance(value, (list, tuple)) and bool(value)
    return is_list and all(isinstance(word, str) for word in value)  # type: ignore[attr-defined]


def hashes(run: Run, card: Mapping[str, Any] | None, checkpoint: str | None) -> dict[str, str]:
    """Return the hashes by which files and data are recognised, by what they are of.

    Args:
        run: run that the page is about.
        card: content of the model.json of the selected network.
        checkpoint: SHA-256 of the run's checkpoint, if it is known.
    """
    found = {
        "checkpoint": checkpoint and f"SHA-256 {checkpoint}",
        "exported file": card and f"SHA-256 {card['sha256']}",
        "data": run.config.data and run.config.data.fingerprint,
    }
    return {f"hash of {name}" if name == "data" else name: str(value) for name, value in found.items() if value}
