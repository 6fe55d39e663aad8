"""Say how an exported file is used, and by which commands a run is made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lctprune.data.raw_inputs import PLACEHOLDERS
from lctprune.reports.explain import command_text
from lctprune.runs import Run
from lctprune.utils.names import shell_word, visible

MODEL_CARD = "model.json"
AGAIN = "-again"  # ends the name of the folder that a run is made again in
ANY_SIZE = 64  # of an axis whose size an example of inputs may choose
FILES = {("float32", 4): "images", ("uint8", 4): "images", ("int64", 2): "texts", ("float32", 2): "rows"}  # by inputs


class Program(NamedTuple):
    """How a file of one format is loaded and called in Python.

    Attributes:
        imports: packages that are imported.
        load: lines that load the file.
        call: expression of the outputs.
        library: package whose zeros the example of inputs is made of.
    """

    imports: Sequence[str]
    load: Sequence[str]
    call: str = "network(inputs)"
    library: str = "torch"


PROGRAMS = {  # by the format of model.json; weights alone have none
    "torchscript": Program(
        ["torch"],
        [
            'warnings.simplefilter("ignore", FutureWarning)  # of TorchScript',
            "network = torch.jit.load({file!r})",
        ],
    ),
    "pt2": Program(["torch"], ["network = torch.export.load({file!r}).module()"]),
    "aoti": Program(["torch"], ["network = torch._inductor.aoti_load_package({file!r})  # machine code"]),
    "onnx": Program(
        ["numpy", "onnxruntime"],
        [
            'network = onnxruntime.InferenceSession({file!r}, providers=["CPUExecutionProvider"])',
            "name = network.get_inputs()[0].name",
        ],
        "network.run(None, {name: inputs})[0]",
        "numpy",
    ),
    "openvino": Program(
        ["numpy", "openvino"],
        ['network = openvino.compile_model({file!r}, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})'],
        "network(inputs)[0]",
        "numpy",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """A command that predicts, a short program that loads the exported file, and what has to be known besides.

    Attributes:
        command: the command; "" for inputs that stand in no file.
        lines: lines of the program; none for a file of weights alone.
        note: what inputs and outputs are.
    """

    command: str
    lines: Sequence[str]
    note: str


def usage(run: Run, card: Mapping[str, Any], folder: Path) -> Usage | None:
    """Return how the selected network is used; None where that is not known.

    Args:
        run: run that it was selected from.
        card: content of its model.json.
        folder: folder of the file.
    """
    try:
        program = PROGRAMS.get(card["format"])
        taken, given = card["input"], card["output"]
        shapes = f"{taken['dtype']} {_shape(taken['shape'])} to {_shape(given['shape'])}"
        note = f"An input: {taken['preprocessing']}. An output: {given['meaning']}. Numbers: {MODEL_CARD}."
        file_name = card["file"]
    except (KeyError, TypeError):  # a card that lacks what the program needs
        return None
    lines = []
    if program is not None:
        file = visible(str(folder / file_name))
        loading = [line.format(file=file) for line in program.load]
        lines = [
            "import json",
            *(["import warnings"] if any("warnings." in line for line in loading) else []),
            "from pathlib import Path",
            *(f"import {each}" for each in program.imports),
            "",
            *loading,
            f"about = json.loads(Path({visible(str(folder / MODEL_CARD))!r}).read_text())",
            "# inputs are your samples, prepared as the text below says; these are zeros",
            f"inputs = {_example(taken['shape'], taken['dtype'], program.library, _fixed_length(card))}",
            f"outputs = {program.call}  # {shapes}",
        ]
        if run.config.data and run.config.data.classes:
            lines.append('names = [about["classes"][i] for i in outputs.argmax(1)]')
    asked = FILES.get((taken["dtype"], len(taken["shape"]))) if run.config.data else None
    command = f"lctprune predict {shell_word(folder)} {PLACEHOLDERS[asked]}" if asked else ""
    if command and card["format"] == "aoti":
        command += " --trust-code"  # the user's own file
    return Usage(command=command, lines=lines, note=note)


def _fixed_length(card: Mapping[str, Any]) -> int | None:
    """Return the only length of sequences that the file takes, as model.json records it; None for any."""
    files = [each for each in card.get("files") or () if isinstance(each, Mapping)]
    return next((each.get("fixed_length") for each in files if each.get("file") == card["file"]), None)


def _example(shape: Sequence[object], dtype: str, library: str, length: int | None) -> str:
    first, *sizes = (size if isinstance(size, int) else length or ANY_SIZE for size in shape)
    batch = first if isinstance(shape[0], int) else 2
    return f"{library}.zeros(({', '.join(map(str, (batch, *sizes)))}), dtype={library}.{dtype})"


def _shape(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def commands(run: Run, card: Mapping[str, Any] | None) -> list[str]:
    """Return the commands that make the run, its selected network and this page, in a new folder beside the run's.

    A run that another program made is not made by a command of lctprune: what was recorded is shown as it is.

    Args:
        run: run that the page is about.
        card: content of the model.json of the selected network.
    """
    first, chosen = (
        [*each] if each is not None and _is_command(each) else []
        for each in (run.config.command, card.get("command") if card else None)
    )
    report, longer = run.command("report"), list[list[str]]()
    if first[1:2] in (["train"], ["compress"]):
        folder = f"{run.path if run.path.name else run.path.resolve()}{AGAIN}"
        first = ["lctprune", *_without_folder(first[1:]), "--out", folder]
        longer = _trained_longer(run, folder)
        report = report.replace(f" {shell_word(run.path)}", f" {shell_word(folder)}", 1)
        # if not select, the first command chose, or went on after an interruption and chose
        chosen = ["lctprune", *_about(chosen[1:], run, folder)] if chosen[1:2] == ["select"] else []
    return [*(command_text(each) for each in (first, *longer, chosen) if each), report]


def _trained_longer(run: Run, folder: str) -> list[list[str]]:
    """Return the commands that trained a run longer than it was begun with, in another folder."""
    before = run.config.to_dict().get("epochs_before")
    if not (isinstance(before, list) and before and all(isinstance(each, int) for each in before)):
        return []
    each_end = [*before[1:], run.config.training.epochs]
    return [["lctprune", "resume", folder, "--epochs", str(epochs)] for epochs in each_end]


def _without_folder(words: Sequence[str]) -> list[str]:
    """Leave out --out, and --resume, which goes on in a folder that exists."""
    return [
        word
        for before, word in zip(("", *words), words, strict=False)
        if before != "--out" and word not in ("--out", "--resume") and not word.startswith("--out=")
    ]


def _about(words: Sequence[str], run: Run, folder: str) -> list[str]:
    """Put another folder in the place of the run in the words of a command about it; without one, it is the newest."""
    name = run.path.resolve().name
    index = next((place for place, word in enumerate(words) if place and Path(word).name == name), None)
    if index is None and (len(words) == 1 or words[1].startswith("-")):
        return [words[0], folder, *words[1:]]
    index = index or 1
    return [*words[:index], folder, *words[index + 1 :]]


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
