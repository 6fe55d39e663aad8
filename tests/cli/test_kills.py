"""A command that is killed at any of its writes loses nothing: it goes on, or begins anew, to the same result."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import lctprune as lct
from lctprune.cli.main import main
from lctprune.measure import latency

Cli = Callable[..., Any]
LONGEST = 40  # writes of one command
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


def killed_at_write(number: int, arguments: tuple[str, ...]) -> bool:
    """Run a command in a process of its own, and kill that before its n-th write; tell whether it got so far."""
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event: str, _: object) -> None:
            nonlocal count
            if event == "os.rename":  # files are written beside their place first
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(watch)
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            sys.argv = ["lctprune", *arguments]
            main()
        except SystemExit as exit:
            os._exit(int(exit.code or 0))
        except BaseException:
            os._exit(99)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


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


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("finetune", 1, 1), *(pytest.param(name, 1, LONGEST, marks=pytest.mark.slow) for name in COMMANDS)],
)
def test_killed_at_any_write_it_comes_to_the_same(
    name: str, first: int, last: int, cli: Cli, table_run: Callable[..., lct.Run], tmp_path: Path
) -> None:
    given = table_run()
    places = {"GIVEN": str(given.path), "TABLE": str(tmp_path / "t.csv")}

    def begun(folder: str) -> tuple[Path, tuple[str, ...]]:
        run = tmp_path / folder
        shutil.rmtree(run, ignore_errors=True)
        if name != "compress":
            shutil.copytree(given.path, run)
        return run, tuple({**places, "RUN": str(run)}.get(each, each) for each in COMMANDS[name])

    whole, arguments = begun("whole")
    assert cli(*arguments).code == 0
    for number in range(first, last + 1):
        run, arguments = begun("killed")
        before = {path.name: path.read_bytes() for path in run.iterdir()} if run.exists() else {}
        if not killed_at_write(number, arguments):
            assert number > 1
            break
        for file, content in before.items():
            assert (run / file).read_bytes() == content or file.startswith("candidates")
        go_on(cli, run, arguments)
        assert weights(run) == weights(whole)
        expected = {path.name for path in whole.iterdir()} - {"metrics.jsonl"}  # whose last line may be lost
        assert expected <= {path.name for path in run.iterdir()}
    else:
        assert last < LONGEST
