"""Say how an exported file is used, and by which commands a run is made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lctprune.reports.explain import command_text
from lctprune.runs import Run
from lctprune.utils.names import shell_word, visible

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
    if card.get("format") not in LOADERS:
        return None
    needs, load = LOADERS[card["format"]]
    taken, given = card["input"], card["output"]
    classes = list(run.config.data.classes) if run.config.data else []
    shape = f"{taken['dtype']} {_shape(taken['shape'])}"
    lines = [
        "import json",
        needs,
        "",
        f"network = {load.format(file=visible(str(folder / card['file'])))}",
        f"about = json.load(open({visible(str(folder / 'model.json'))!r}))",
        f"outputs = network(inputs)  # {shape} to {_shape(given['shape'])}",
    ]
    if classes:
        lines.append('names = [about["classes"][i] for i in outputs.argmax(1)]')
    note = f"An input: {taken['preprocessing']}. An output: {given['meaning']}. All numbers for this are in model.json."
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
    texts = [command_text(each) for each in recorded if _is_command(each)]
    return [*texts, f"lctprune report {shell_word(run.path)}"]


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
