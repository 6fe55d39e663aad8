"""Every command that is suggested works as it stands, when it is copied from what was printed."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lctprune as lct
from lctprune.reports.usage import usage
from lctprune.utils.steps import STEPS

Cli = Callable[..., Any]
COMMAND = re.compile(r"lctprune ((?:train|resume|select|evaluate|densify|finetune|narrow|predict)\b[^;,)\n]*)")


def suggested(text: str) -> list[list[str]]:
    """Return the commands in a text, as their words, each once."""
    found = [shlex.split(command.strip().rstrip(".")) for command in COMMAND.findall(text)]
    return [list(words) for words in dict.fromkeys(map(tuple, found))]


@pytest.mark.slow
def test_after_backpropagation_come_critics_and_then_a_choice(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    size = ("--model-args", "width=4", "--batch-size", 20, "--threads", 1)
    run = tmp_path / "a run"
    result = cli("train", "vgg-lct", "--data", image_folder, *size, "--method", "backprop", "--epochs", 1, "--out", run)
    for name in ("train", "select"):
        (command,) = suggested(result.out)
        assert command[0] == name
        result = cli(*command, *(["--out", tmp_path / "critics"] if name == "train" else []))
        assert result.code == 0, result.err
    assert (tmp_path / "critics" / "selected" / "model.pt").exists()


def test_what_is_said_of_runs_works(cli: Cli, trained: lct.Run) -> None:
    finished = cli("resume", trained.path)
    record = json.loads((trained.path / "config.json").read_text())
    record["training"]["epochs"] = 3
    (trained.path / "config.json").write_text(json.dumps(record))
    assert (finished.code, "is trained to epoch 2 already" in finished.err) == (0, True)
    assert [command[0] for command in suggested(finished.out)] == ["select"]
    unfinished = cli("evaluate", trained.path)
    assert f"{trained.path} is at epoch 2 of 3" in unfinished.err
    assert "epoch 2 of 3" in unfinished.out
    commands = [command for text in (unfinished.err, finished.err) for command in suggested(text)]
    assert [command[0] for command in commands if command[0] != "evaluate"] == ["resume", "resume"]
    for command in commands:
        result = cli(*command, "--threads", 1)
        assert result.code == 0, (command, result.err)


class Interrupting(logging.Handler):
    """Interrupts the program once it measures latencies, as a key would."""

    def emit(self, record: logging.LogRecord) -> None:
        if "latencies" in record.getMessage():
            raise KeyboardInterrupt


@pytest.mark.parametrize("command", ["train", "densify --epochs 1", "finetune --exit 0", "narrow --keep 70%"])
def test_interrupted_while_measuring_it_names_the_command_that_goes_on(
    command: str, cli: Cli, trained: lct.Run, image_folder: Path, tmp_path: Path
) -> None:
    name, *options = command.split()
    arguments: list[object] = [trained.path, *options]
    if name == "train":
        arguments = ["vgg-lct", "--data", image_folder, "--model-args", "width=4", "--groups", 3, "--image-size", 16]
        arguments += ["--epochs", 1, "--batch-size", 18, "--out", tmp_path / "new"]
    handler = Interrupting()
    STEPS.addHandler(handler)
    try:
        stopped = cli(name, *arguments, "--threads", 1)
    finally:
        STEPS.removeHandler(handler)
    assert stopped.code == 130
    assert "error: interrupted; all epochs are trained; to go on from there: lctprune" in stopped.err.splitlines()[-1]
    (go_on,) = suggested(stopped.err)
    assert go_on == ["resume", str(tmp_path / "new" if name == "train" else trained.path)]
    done = cli(*go_on, "--threads", 1)
    assert done.code == 0, done.err
    names = {"densify": " x0.5", "finetune": "fine-tuned", "narrow": "narrowed"}
    assert "main network" in done.out
    assert names.get(name, "Next, choose one") in done.out


@pytest.mark.slow
def test_a_remedy_makes_a_network_that_fits_or_says_that_there_is_none(cli: Cli, trained: lct.Run) -> None:
    commands = set()
    for cost, option in (("flops", "--budget-flops"), ("parameters", "--budget-params")):
        least = min(each[cost] for each in cli("evaluate", trained.path, "--json").document["candidates"])
        budget = (option, 0.9 * least)
        refused = cli("select", trained.path, *budget)
        assert refused.code == 3
        (command,) = suggested(refused.err)
        commands.add(command[0])
        added = cli(*command, "--threads", 1)
        assert added.code == 0, added.err
        assert cli("select", trained.path, *budget).code == 0
    assert commands == {"densify", "narrow"}
    refused = cli("select", trained.path, "--budget-flops", "0.1%")  # which nothing nearly fits
    assert suggested(refused.err) == []
    (reached,) = re.findall(r"narrow gets to (\S+) FLOPs at the smallest; train a narrower network", refused.err)
    refused = cli("select", trained.path, "--budget-flops", f"{0.8 * float(reached[:-1])}{reached[-1]}")
    assert "neither densify nor narrow adds one that fits" in refused.err
    (command,) = suggested(refused.err)  # the smallest that can be made
    assert command[0] == "narrow"
    assert cli(*command, "--threads", 1).code == 0
    (least,) = re.findall(r"with (--budget-flops \S+) it fits", refused.err)
    assert cli("select", trained.path, *least.split()).code == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_the_program_on_the_page_runs_for_every_format(cli: Cli, trained: lct.Run) -> None:
    formats = ["torchscript", "pt2", "onnx", "openvino", "aoti", "state-dict"]
    exported = cli("export", trained.path, "--exit", 0, "--format", ",".join(formats))
    assert exported.code == 0, exported.err
    folder = trained.path / "exports" / "exit0"
    card = json.loads((folder / "model.json").read_text())
    assert sorted(each["format"] for each in card["files"]) == sorted(formats)
    for each in card["files"]:
        found = usage(trained, card | {"format": each["format"], "file": each["file"]}, folder)
        assert found is not None
        assert found.command.startswith(f"lctprune predict {folder} ")
        assert found.command.endswith(" --trust-code") is (each["format"] == "aoti")
        variables: dict[str, Any] = {}
        exec("\n".join(found.lines), variables)
        assert bool(found.lines) is (each["format"] != "state-dict")
        assert not found.lines or len(variables["names"]) == 2


def test_commands_keep_the_budget_that_was_given(cli: Cli, trained: lct.Run) -> None:
    budget = ("--budget-flops", "90%", "--budget-size", "2MB")
    chosen = cli("select", trained.path, *budget, "--max-drop", 50, "--prefer", "best")
    assert chosen.code == 0, chosen.err
    card = json.loads((trained.path / "selected" / "model.json").read_text())
    kept = ["--budget-flops", str(int(card["budget"]["flops"])), "--budget-size", "2000000"]
    (train_on,) = suggested(cli("resume", trained.path).out)
    assert train_on == ["select", str(trained.path), *kept]
    card["trained_with"]["checkpoint_sha256"] = "0" * 64  # as after a further training
    (trained.path / "selected" / "model.json").write_text(json.dumps(card))
    (again,) = (command for command in suggested(cli("evaluate", trained.path).err) if command[0] == "select")
    assert again == ["select", str(trained.path), *kept, "--max-drop", "50.0", "--prefer", "best"]
    (trained.path / "selected" / "model.json").write_text('{"budget": {"flops": []}}')
    (plain,) = suggested(cli("resume", trained.path).out)
    assert plain[2:] == ["--budget-flops", "60%"]


def test_after_narrowing_to_a_budget_comes_a_selection_under_it(cli: Cli, trained: lct.Run) -> None:
    narrowed = cli("narrow", trained.path, "--exit", 0, "--budget-params", "2k", "--threads", 1)
    assert narrowed.code == 0, narrowed.err
    (command,) = suggested(narrowed.out)
    assert command == ["select", str(trained.path), "--budget-params", "2k"]
    assert "narrowed to 2k parameters" in cli(*command).out.partition("Chosen: ")[2].splitlines()[0]
