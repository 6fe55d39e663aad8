"""Images that come without splits, from the command line: every command on the run reads the split of the training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

import lctprune as lct

Cli = Callable[..., Any]
CLASSES = ("big dog", "cat", "emu")
QUICK = "--model-args width=4 --groups 2 --critic pooled --epochs 1 --batch-size 12 --image-size 16 --threads 1".split()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that holds a folder of three classes and a table that lists its images."""
    generator = numpy.random.default_rng(0)
    lines = ["file\tlabel"]
    for name in CLASSES:
        (tmp_path / "old" / "pets" / name).mkdir(parents=True)
        for index in range(10):
            pixels = generator.integers(0, 255, (8, 8, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(tmp_path / "old" / "pets" / name / f"{index}.png")
            lines.append(f"{name}/{index}.png\t{name}")
    (tmp_path / "old" / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "old"


def files(run: Path, moved: Path | None = None) -> dict[str, list[Sequence[float]]]:
    """Return the first pixels of each image of a run's splits."""
    data = lct.Run(run, data_path=moved).load_data()
    splits = {"train": data.train, "val": data.val, "test": data.test}
    return {name: next(split.batches(100))[0][:, :, 0, 0].tolist() for name, split in splits.items()}


@pytest.mark.parametrize(("data", "options"), [("pets", []), ("labels.csv", ["--image-root", "pets"])])
def test_a_split_that_is_drawn_stays(
    data: str, options: list[str], place: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    run = tmp_path / "run"
    arguments = ("train", "vgg-lct", "--data", data, *options, "--out", run, *QUICK)
    trained = cli(*arguments)
    assert trained.code == 0, trained.err
    note = next(line for line in trained.err.splitlines() if line.startswith("Note: "))
    assert f"{place / data} has no splits" in note
    assert "(21 train, 3 validation, 6 test samples, 3 classes)" in trained.err
    recorded = json.loads((run / "config.json").read_text())["data"]
    assert recorded["classes"] == [*CLASSES]
    assert recorded["config"]["image_root"] == (str(place / "pets") if options else None)
    split = files(run)

    resumed = cli(*arguments, "--resume")
    assert resumed.code == 0, resumed.err
    monkeypatch.chdir(tmp_path)
    moved = Path(shutil.move(place, tmp_path / "new")) / data
    assert "say where it is now: --data" in cli("evaluate", run).err
    for command in (("evaluate", run), ("export", run, "--exit", 0)):
        result = cli(*command, "--data", moved)
        assert result.code == 0, result.err
        assert "Note: " not in result.err
    assert files(run, moved) == split

    if options:
        moved.write_text(moved.read_text().replace("cat/3.png\tcat", "cat/3.png\temu"))
    else:
        shutil.copy(moved / "cat/0.png", moved / "cat/new.png")
    changed = cli("evaluate", run, "--data", moved)
    assert changed.code == 1
    assert "the data has changed since" in changed.err


def test_a_table_of_images_that_are_elsewhere_starts_no_run(place: Path, tmp_path: Path, cli: Cli) -> None:
    result = cli("train", "vgg-lct", "--data", place / "labels.csv", "--out", tmp_path / "run", *QUICK)
    assert result.code == 1
    assert "30 of the 30 images" in result.err
    assert not (tmp_path / "run").exists()
