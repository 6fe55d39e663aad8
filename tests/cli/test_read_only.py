"""A run that may only be read: its results are shown, nothing is kept, and --out writes elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lctprune as lct
from lctprune.utils.files import why_not_writable

Cli = Callable[..., Any]
NOBODY = 65534


@pytest.fixture
def store(trained: lct.Run, image_folder: Path) -> Iterator[Path]:
    """A folder with a run and its data, which this process may read, but not write."""
    base = Path(tempfile.mkdtemp())
    shutil.copytree(trained.path, base / "run")
    shutil.copytree(image_folder, base / "images")
    for folder, _, files in os.walk(base):
        Path(folder).chmod(0o555)
        for name in files:
            (Path(folder) / name).chmod(0o444)
    was = os.geteuid()
    if was == 0:  # root may write anywhere
        os.seteuid(NOBODY)
    yield base
    os.seteuid(was)
    for folder, _, _ in os.walk(base):
        Path(folder).chmod(0o755)
    shutil.rmtree(base)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("command", ["evaluate", "select", "report"])
def test_results_are_shown_and_not_kept(command: str, cli: Cli, store: Path) -> None:
    before = content(store)
    result = cli(command, store / "run", "--data", store / "images")
    assert result.code == 0, result.err
    assert f"{store / 'run'}" in result.err
    assert "cannot be written (Permission denied): nothing is kept; --out DIR writes elsewhere" in result.err
    assert "main network" in result.out
    if command == "select":
        assert "Chosen:" in result.out
        assert "Test accuracy (18 samples" in result.out
        document = cli(command, store / "run", "--data", store / "images", "--json").document
        assert document["model"] is None
        assert 0 <= document["test_accuracy"] <= 1
    assert content(store) == before


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_out_writes_elsewhere(cli: Cli, store: Path, elsewhere: Path) -> None:
    before = content(store)
    run = (store / "run", "--data", store / "images", "--out", elsewhere / "new")
    # export tries its file in a new process, which a user without rights on the interpreter cannot start
    may_start = os.access(os.path.realpath(sys.executable), os.X_OK, effective_ids=True)
    result = cli("export", *run, "--exit", 0) if may_start else cli("select", *run)
    assert result.code == 0, result.err
    assert {path.name for path in (elsewhere / "new").iterdir()} >= {"model.pt", "model.json", "candidates.json"}
    assert content(store) == before


def test_out_of_all_commands_that_write_results(cli: Cli, trained: lct.Run, tmp_path: Path) -> None:
    before = content(trained.path)
    expected = {
        "evaluate": {"candidates.json", "candidates.csv", "pareto.png", "pareto.svg"},
        "select": {
            *("candidates.json", "candidates.csv", "pareto.png", "pareto.svg"),
            *("model.pt", "model.safetensors", "model.json", "README.md"),
        },
        "report": {"candidates.json", "report.html"},
    }
    for command, names in expected.items():
        out = tmp_path / command
        result = cli(command, trained.path, "--out", out)
        assert result.code == 0, result.err
        assert {path.name for path in out.iterdir()} == names
    assert content(trained.path) == before
    (tmp_path / "file").write_text("")
    for command in (*expected, "export"):
        result = cli(command, trained.path, "--out", tmp_path / "file" / "out")
        assert (result.code, result.out) == (1, "")
        assert "cannot be written (Not a directory); choose another --out" in result.err
        assert result.err.count("\n") == 1


@pytest.mark.parametrize("command", [["export"], ["densify"], ["finetune", "--exit", "0"]])
def test_what_must_write_says_where_it_cannot(command: list[str], cli: Cli, store: Path) -> None:
    before = content(store)
    result = cli(*command, store / "run", "--data", store / "images")
    assert (result.code, result.out) == (1, "")
    assert result.err.count("\n") == 1
    assert f"{store / 'run'}/" in result.err
    assert "cannot be written (Permission denied)" in result.err
    assert ("--out DIR" if command == ["export"] else "copy ") in result.err
    assert content(store) == before


def test_a_run_that_may_only_be_read_cannot_go_on(store: Path) -> None:
    run = lct.Run(store / "run")
    with pytest.raises(lct.RunError, match=r"cannot be written \(Permission denied\); copy it"):
        run.prepare_to_resume()


def test_a_program_may_measure_without_keeping(trained: lct.Run, tmp_path: Path) -> None:
    before = content(trained.path)
    assert len(lct.measure_run(trained, keep=False)) == 3
    assert content(trained.path) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(lct.RunError, match="cannot be written"):
        lct.measure_run(trained, folder=tmp_path / "file")


def test_a_folder_is_tried_without_a_trace(tmp_path: Path) -> None:
    assert why_not_writable(tmp_path / "new" / "folder") is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert why_not_writable(tmp_path / "file" / "folder") == "Not a directory"
