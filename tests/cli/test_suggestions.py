"""Every command that is suggested works as it stands, when it is copied from what was printed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lctprune as lct

Cli = Callable[..., Any]
COMMAND = re.compile(r"lctprune ((?:train|resume|select|evaluate|densify|finetune)\b[^;,)\n]*)")


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
    refused = cli("select", trained.path, "--budget-flops", "2%")
    assert refused.code == 3
    finished = cli("resume", trained.path)
    record = json.loads((trained.path / "config.json").read_text())
    record["training"]["epochs"] = 3
    (trained.path / "config.json").write_text(json.dumps(record))
    unfinished = cli("evaluate", trained.path)
    assert f"{trained.path} is at epoch 2 of 3" in unfinished.err
    assert "epoch 2 of 3" in unfinished.out
    texts = [unfinished.err, finished.err, refused.err]
    commands = [command for text in texts for command in suggested(text)]
    assert [command[0] for command in commands if command[0] != "evaluate"] == ["resume", "resume", "densify"]
    for command in commands:
        result = cli(*command, "--threads", 1)
        assert result.code == 0, (command, result.err)
    assert len(cli("evaluate", trained.path, "--json").document["candidates"]) > 3
