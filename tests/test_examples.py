"""The programs in examples/ run as they stand, each in a process and a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lctprune as lct

EXAMPLES = Path(__file__).parent.parent / "examples"
ALONE = ("own_dataset.py", "own_network.py", "own_training_loop.py")


def python(*arguments: object, folder: Path, path: Path | None = None) -> str:
    """Run Python with warnings as errors; what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, "-W", "error", *(str(argument) for argument in arguments)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*ALONE, "deploy_without_lctprune.py"}


@pytest.mark.parametrize(
    ("name", "printed", "written"),
    [
        ("own_dataset.py", "on validation", "stripes.pt"),
        ("own_network.py", "3 groups", None),
        ("own_training_loop.py", "epoch 3: validation accuracy", "backbone.pt"),
    ],
)
def test_an_example_runs(name: str, printed: str, written: str | None, tmp_path: Path) -> None:
    assert printed in python(EXAMPLES / name, folder=tmp_path)
    assert written is None or (tmp_path / written).stat().st_size > 0


def test_the_command_takes_the_example_s_own_network(tmp_path: Path) -> None:
    printed = python(
        "-m", "lctprune", "inspect", "own_network:small", "--groups", "3", "--json", folder=tmp_path, path=EXAMPLES
    )
    assert '"groups"' in printed


def test_an_exported_network_is_used_where_there_is_no_lctprune(
    trained: lct.Run, image_folder: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    assert cli("export", trained.path, "--exit", 1, "--out", tmp_path / "selected").code == 0
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "lctprune.py").write_text("raise ImportError('there is no lctprune on this machine')\n")
    images = sorted((image_folder / "test").glob("*/*.png"))
    printed = python(
        EXAMPLES / "deploy_without_lctprune.py", "selected", *images, folder=tmp_path, path=tmp_path / "without"
    )
    given = [line.rsplit(": ", 1)[1].split()[0] for line in printed.splitlines()]
    with pytest.raises(AssertionError, match="no lctprune on this machine"):
        python("-c", "import lctprune", folder=tmp_path, path=tmp_path / "without")

    network = lct.load_network(trained).subnetwork(1).eval()
    data = trained.load_data()
    inputs, _ = next(data.test.batches(len(images)))
    assert given == [data.classes[index] for index in network(inputs).argmax(1).tolist()]
