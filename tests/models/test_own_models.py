"""A user's own network, by package.module:callable: it trains as others do, and is executed only if it is named."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lctprune as lct

Cli = Callable[..., Any]
QUICK = ("--groups", 2, "--epochs", 1, "--batch-size", 20, "--threads", 1)
SOURCE = """
from pathlib import Path

import torch
from torch import nn

with Path("imported").open("a") as file:
    file.write("x")


def build(num_classes, in_channels=3, image_size=8, width=4):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )


class Projected(nn.Module):
    def __init__(self, num_classes, in_channels, image_size):
        super().__init__()
        size = in_channels * image_size**2
        self.register_buffer("projection", torch.randn(size, 16) / size**0.5, persistent=False)
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, num_classes)

    def forward(self, x):
        return self.last(self.first((x.flatten(1) @ self.projection).cos()).relu())


def broken(num_classes):
    raise KeyError("no such layer")


def demanding(num_classes, depth):
    return nn.Linear(depth, num_classes)


def exits(num_classes):
    raise SystemExit(0)


def number(num_classes):
    return 3


def no_outputs(width=3):
    return nn.Linear(width, 3)


text = "not a function"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the current folder, with a module `mynet` that leaves a mark when it is imported."""
    (tmp_path / "mynet.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    for name in ("mynet", "package", "package.mynet"):
        sys.modules.pop(name, None)


def was_imported(folder: Path) -> bool:
    mark = folder / "imported"
    there = mark.exists()
    mark.unlink(missing_ok=True)
    return there


@pytest.fixture
def run(folder: Path, cli: Cli, image_folder: Path) -> Path:
    """Train a run of the user's network, in a session that has forgotten the module."""
    result = cli("train", "mynet:build", "--data", image_folder, "--out", "run", *QUICK)
    assert result.code == 0, result.err
    assert "--model mynet:build" in result.out
    assert was_imported(folder)
    forget()
    return folder / "run"


def assert_refused(result: Any, folder: Path, *words: str, code: int = 1) -> None:
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert all(word in result.err for word in words), result.err
    assert not was_imported(folder)


def test_a_file_is_named_by_its_path_and_the_next_command_finds_it(
    folder: Path, cli: Cli, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    elsewhere = folder / "else where" / "package"
    elsewhere.mkdir(parents=True)
    (elsewhere / "__init__.py").touch()
    (elsewhere / "mynet.py").write_text(SOURCE)
    (folder / "mynet.py").unlink()
    path = f"{elsewhere}/mynet.py:build"
    assert cli("train", path, "--data", image_folder, "--out", "run", *QUICK).code == 0
    forget()
    run = lct.Run("run")
    assert run.config.network.model == "package.mynet:build"
    command = run.command("evaluate")
    assert command == f"PYTHONPATH='{elsewhere.parent}' lctprune evaluate run --model package.mynet:build"
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(elsewhere.parent)])
    lctprune = f"{shlex.quote(sys.executable)} -m lctprune"
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command.replace("lctprune", lctprune, 1), shell=True, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert cli("evaluate", "run", "--model", path).code == 0
    monkeypatch.chdir(elsewhere.parent)
    assert lct.Run("../run").command("select") == "lctprune select ../run --model package.mynet:build"


def test_the_run_records_how_to_build_it(run: Path) -> None:
    recipe = lct.Run(run).config.network
    assert (recipe.model, recipe.groups, recipe.num_outputs, recipe.image_size) == ("mynet:build", 2, 3, 8)


@pytest.mark.parametrize("command", ["select", "evaluate", "export"])
def test_a_run_executes_no_code_that_was_not_named(command: str, run: Path, folder: Path, cli: Cli) -> None:
    assert_refused(cli(command, run), folder, "mynet:build", "--model mynet:build")
    assert_refused(cli(command, run, "--model", "os:getcwd"), folder, "--model mynet:build")
    result = cli(command, run, "--model", "mynet:build", "--json")
    assert result.code == 0, result.err
    assert result.document
    assert was_imported(folder)


def test_a_report_of_what_is_measured_executes_nothing(run: Path, folder: Path, cli: Cli) -> None:
    (run / "candidates.json").unlink()
    assert_refused(cli("report", run), folder, "--model mynet:build")
    assert cli("report", run, "--model", "mynet:build").code == 0
    forget()
    was_imported(folder)
    assert cli("report", run).code == 0
    assert not was_imported(folder)


def test_the_newest_run_is_loaded_with_the_model_that_is_named(
    folder: Path, cli: Cli, image_folder: Path, run: Path
) -> None:
    (folder / "runs").mkdir()
    run.rename(folder / "runs" / "mine")
    assert_refused(cli("select"), folder, "--model mynet:build")
    assert cli("select", "--model", "mynet:build", "--json").document["run"] == "runs/mine"


def test_the_library_asks_for_the_name_too(run: Path, folder: Path) -> None:
    for attempt in (lambda: lct.load_network(run), lambda: lct.load_network(lct.Run(run), model="os:abort")):
        with pytest.raises(lct.RunError, match=r"code outside lctprune.*`model=mynet:build`"):
            attempt()
    assert not was_imported(folder)
    networks = [
        lct.load_network(run, model="mynet:build"),
        lct.load_network(lct.Run(run, model="mynet:build")),
        lct.load_network(lct.Run(run), model="mynet:build"),
    ]
    inputs = torch.randn(2, 3, 8, 8)
    outputs = [network(inputs) for network in networks]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(
    "name", ["os:abort", "os.abort", "mynet:build", "mynet", "timm/hf-hub:someone/model", "../mynet"]
)
def test_a_run_directory_cannot_make_anyone_execute_code(name: str, cli: Cli, folder: Path, image_folder: Path) -> None:
    assert cli("train", "vgg-lct", "--data", image_folder, "--out", "run", *QUICK).code == 0
    config = json.loads((folder / "run" / "config.json").read_text())
    config["network"]["model"] = name
    (folder / "run" / "config.json").write_text(json.dumps(config))
    for command in ("evaluate", "export"):
        result = cli(command, "run", *(("--exit", 0) if command == "export" else ()))
        if command == "evaluate":
            assert result.code in (1, 2)
            assert (result.out, result.err.count("\n")) == ("", 1)
        assert "Traceback" not in result.err
    with pytest.raises(lct.LctpruneError):
        lct.load_network(folder / "run")
    assert not was_imported(folder)


def test_weights_of_a_run_execute_nothing_of_it(run: Path, folder: Path, cli: Cli, image_folder: Path) -> None:
    options = ("--data", image_folder, "--weights", run, "--freeze-main", *QUICK)
    assert_refused(cli("train", "vgg-lct", "--out", "other", *options), folder, "does not fit")
    assert cli("train", "mynet:build", "--out", "frozen", *options).code == 0
    before, after = (lct.load_network(path, model="mynet:build").main_state_dict() for path in (run, folder / "frozen"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_is_resumed_by_name(run: Path, cli: Cli, image_folder: Path) -> None:
    again = cli("train", "mynet:build", "--data", image_folder, "--out", run, "--resume", *QUICK)
    assert again.code == 0, again.err
    other = cli(
        "train", "mynet:build", "--model-args", "width=5", "--data", image_folder, "--out", run, "--resume", *QUICK
    )
    assert (other.code, other.err.count("\n")) == (1, 1)
    assert "another network (width was None, is 5)" in other.err


def test_commands_that_are_named_to_copy_name_the_function_and_where_the_data_is_now(
    run: Path, cli: Cli, image_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "moved data"
    data.symlink_to(image_folder)
    elsewhere = ("--model", "mynet:build", "--data", data)
    (longer,) = re.findall("to train it longer: lctprune (.*)", cli("resume", run, *elsewhere).err)
    resumed = cli(*shlex.split(longer))
    assert resumed.code == 0, resumed.err
    refused = cli("select", run, *elsewhere, "--budget-params", 3).err
    (densify,) = re.findall("lctprune (densify .*data')", refused)
    assert shlex.split(densify) == ["densify", str(run), *map(str, elsewhere)]


def test_arguments_and_packages(folder: Path, cli: Cli, image_folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "mynet.py").write_text(SOURCE)
    options = ("--model-args", "width=6", "--data", image_folder, "--out", "run", *QUICK)
    assert cli("train", "package.mynet:build", *options).code == 0
    network = lct.load_network("run", model="package.mynet:build")
    assert network.main_state_dict()["0.weight"].shape == (6, 3, 3, 3)
    inspected = cli("inspect", "package.mynet:build", "--image-size", 8, "--groups", 2, "--json").document
    assert inspected["model"] == "package.mynet:build"
    assert inspected["input"] == [1, 3, 8, 8]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("nosuchmodule:build", 2, "importable from here: run it where that file is, or set PYTHONPATH to its folder"),
        ("mynet:nosuch", 2, "cannot be imported"),
        ("mynet:", 2, "cannot be imported"),
        ("mynet:text", 2, "not a function"),
        ("mynet:no_outputs", 2, "neither num_classes nor num_outputs"),
        ("mynet:demanding", 2, "needs depth, which this data does not provide; it provides num_outputs, in_channels"),
        ("mynet:demanding", 2, "give --model-args depth=..."),
        ("mynet:broken", 1, "KeyError"),
        ("mynet:exits", 1, "SystemExit"),
        ("mynet:number", 1, "not an nn.Module"),
    ],
)
def test_what_is_no_network_gets_one_line(
    name: str, code: int, words: str, folder: Path, cli: Cli, image_folder: Path
) -> None:
    result = cli("train", name, "--data", image_folder, "--out", "run", *QUICK)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert words in result.err
    assert name.partition(":")[0] in result.err
    assert not (folder / "run").exists()


def test_what_no_checkpoint_holds_is_drawn_again_alike(folder: Path, cli: Cli, image_folder: Path) -> None:
    arguments = ("--data", image_folder, *QUICK, "--epochs", 3, "--seed", 7, "--json", "--out", folder / "drawn")
    trained = cli("train", "mynet:Projected", *arguments).document
    for _ in range(2):
        measured = cli("evaluate", folder / "drawn", "--model", "mynet:Projected", "--json").document
        assert [each["loss"] for each in measured["candidates"]] == [each["loss"] for each in trained["candidates"]]
