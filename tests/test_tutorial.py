"""The tutorial does what it says: its fences run in order, in an empty folder, as a reader would run them.

A console fence gives its commands after `$ `, a Python fence with a title is a file, and any other is a program. They
run in this process, so that PyTorch is imported once.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.md"
FENCE = re.compile(r"^```(?P<language>\w+)(?P<title>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def fences() -> list[re.Match[str]]:
    return list(FENCE.finditer(TUTORIAL.read_text()))


def test_the_tutorial_has_fences_of_all_kinds() -> None:
    assert {"console", "python", "text"} == {fence["language"] for fence in fences()}
    assert TUTORIAL.read_text().count("```") == 2 * len(fences())


def test_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    printed = ""
    try:
        for fence in fences():
            printed += _run(fence, cli, capsys)
    finally:
        sys.modules.pop("my_networks", None)
    assert "resize the shorter side to 16" in printed
    assert {path.name for path in Path("runs/first/selected").iterdir()} == {
        "model.pt",
        "model.safetensors",
        "model.json",
        "README.md",
    }
    assert Path("runs/first/report.html").exists()
    assert Path("runs/critics/selected/model.pt").exists()


def _run(fence: re.Match[str], cli: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Run one fence; what it printed."""
    if title := re.search(r'title="(.+)"', fence["title"]):
        Path(title[1]).write_text(fence["body"])
        return ""
    if fence["language"] == "console":
        lines = fence["body"].replace("\\\n", " ").splitlines()
        commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        results = [cli(*shlex.split(command)[1:]) for command in commands if command.startswith("lctprune ")]
        assert len(results) == len(commands), "the tutorial runs lctprune alone"
        assert [result.code for result in results] == [0] * len(commands), [result.err for result in results]
        return "".join(result.out for result in results)
    if fence["language"] == "python":
        exec(compile(fence["body"], str(TUTORIAL), "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out
    return ""
