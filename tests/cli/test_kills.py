"""A command that is killed at any of its writes loses nothing: it goes on, or begins anew, to the same result."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from torch import Tensor

import lctprune as lct
from lctprune.cli.main import main
from lctprune.exporting.reopening import reopened
from lctprune.exporting.runtimes import Trial
from lctprune.exporting.writing import Converted
from lctprune.measure import latency
from lctprune.workflows import exported_files

Cli = Callable[..., Any]
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
COMMANDS = {
    "densify": ("densify", "RUN", "--epochs", "1"),
    "finetune": ("finetune", "RUN", "--exit", "0", "--epochs", "2"),
    "narrow": ("narrow", "RUN", "--exit", "0", "--keep", "70%", "--epochs", "2"),
    "compress": (
        *("compress", "mlp", "--model-args", "width=16,layers=4", "--weights", "GIVEN", "--data", "TABLE"),
        *("--groups", "2", "--budget-flops", "70%", "--epochs", "2", "--out", "RUN"),
    ),
    "evaluate": ("evaluate", "RUN"),
    "select": ("select", "RUN", "--budget-flops", "100%"),
    "report": ("report", "RUN"),
    "export": ("export", "RUN", "--exit", "0"),
}


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_SECONDS", 0.0)  # one round of latencies, however busy the machine is
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: file.write(b"<svg></svg>"))  # most of the time
    monkeypatch.setattr(exported_files, "reopened", reopened_here)


def reopened_here(converted: Converted, inputs: Mapping[str, Tensor], *, apart: bool) -> Trial:
    """Try an exported file in this process: a new one would first import PyTorch, which takes most of the time."""
    del apart
    return reopened(converted, inputs, apart=False)


def states_of(arguments: tuple[str, ...], run: Path, copies: Path) -> list[Path]:
    """Run a command, and copy its run directory before each change in it: what a kill would leave at that moment."""
    child = os.fork()
    if child == 0:
        is_copying = False

        def watch(event: str, _: object) -> None:
            nonlocal is_copying
            if event in CHANGES and not is_copying:  # files are written beside their place first
                is_copying = True
                copy = copies / f"{len(list(copies.iterdir())):03}"
                shutil.copytree(run, copy) if run.exists() else copy.mkdir()
                is_copying = False

        copies.mkdir()
        sys.addaudithook(watch)
        os._exit(_run_quietly(arguments))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    different = {tuple(sorted(_contents(copy).items())): copy for copy in sorted(copies.iterdir(), reverse=True)}
    return sorted(different.values())


def _run_quietly(arguments: tuple[str, ...]) -> int:
    """Run a command without its output, in a process that ends with it, and return its exit code."""
    try:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        sys.argv = ["lctprune", *arguments]
        main()
    except SystemExit as exit:
        return int(exit.code or 0)
    except BaseException:
        return 99


def _contents(folder: Path) -> dict[str, bytes]:
    """Return the content of each file, and of folders none; names of unfinished files have a part that is random."""
    return {
        re.sub(r"(/|^)(\..+)\.[^./]{8}$", r"\1\2", path.relative_to(folder).as_posix()): path.read_bytes()
        if path.is_file()
        else b""
        for path in folder.rglob("*")
    }


def killed_at_write(arguments: tuple[str, ...]) -> None:
    """Run a command in a process of its own, and kill that before its first write."""
    child = os.fork()
    if child == 0:

        def watch(event: str, _: object) -> None:
            if event == "os.rename":
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        os._exit(_run_quietly(arguments))
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def weights(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("checkpoint.safetensors")}


def go_on(cli: Cli, run: Path, arguments: tuple[str, ...]) -> None:
    """Do what a user would: resume the run; where nothing is to be resumed, give the command again."""
    said = []
    for command in (("resume", run), (*arguments, "--resume"), arguments):
        if command[-1] == "--resume" and arguments[0] in ("evaluate", "select", "report", "export"):
            continue
        result = cli(*command)
        if result.code == 0 and weights(run):
            return
        said.append(result.err)
        assert "unexpected" not in result.err
    raise AssertionError(said)


def begun(name: str, given: lct.Run, run: Path) -> tuple[str, ...]:
    """Put a run where the command begins, and return the command."""
    shutil.rmtree(run, ignore_errors=True)
    if name != "compress":
        shutil.copytree(given.path, run)
    places = {"GIVEN": str(given.path), "TABLE": str(given.path.parent / "t.csv"), "RUN": str(run)}
    return tuple(places.get(each, each) for each in COMMANDS[name])


def check_going_on(name: str, cli: Cli, run: Path, arguments: tuple[str, ...], before: Path, whole: Path) -> None:
    """Check that a run of a killed process has lost nothing, and that it comes to what it would have come to."""
    for file in before.iterdir() if name != "compress" else ():
        assert file.name.startswith("candidates") or (run / file.name).read_bytes() == file.read_bytes()
    go_on(cli, run, arguments)
    assert weights(run) == weights(whole)
    expected = {path.name for path in whole.iterdir()} - {"metrics.jsonl"}  # whose last line may be lost
    assert expected <= {path.name for path in run.iterdir()}


def test_a_killed_command_comes_to_the_same(cli: Cli, table_run: Callable[..., lct.Run], tmp_path: Path) -> None:
    given = table_run()
    assert cli(*begun("finetune", given, tmp_path / "whole")).code == 0
    run = tmp_path / "killed"
    arguments = begun("finetune", given, run)
    killed_at_write(arguments)
    check_going_on("finetune", cli, run, arguments, given.path, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_change_it_comes_to_the_same(
    name: str, cli: Cli, table_run: Callable[..., lct.Run], tmp_path: Path
) -> None:
    given, whole, run = table_run(), tmp_path / "whole", tmp_path / "killed"
    assert cli(*begun(name, given, whole)).code == 0
    arguments = begun(name, given, run)
    states = states_of(arguments, run, tmp_path / "states")
    assert len(states) > 1
    for state in states:
        shutil.rmtree(run)
        if any(state.iterdir()):
            shutil.copytree(state, run)
        check_going_on(name, cli, run, arguments, given.path, whole)
