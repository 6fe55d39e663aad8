"""Tiny real networks and data that several test files share."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

import lctprune as lct
from lctprune.cli import working
from lctprune.cli.main import main

# networks here are tiny: further threads would only take cores from other tests, which run side by side
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Hide CUDA from tests that are not for it: trainings would take it, and these compare with tensors on the CPU."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that slow.txt lists as slow; a line that names no test is an error."""
    folder = Path(__file__).parent
    lines = (folder / "slow.txt").read_text().splitlines()
    slow = {line for line in lines if line and not line.startswith("#")}
    names = {f"{item.path.relative_to(folder).as_posix()}::{item.nodeid.partition('::')[2]}": item for item in items}
    for name in slow & names.keys():
        names[name].add_marker("slow")
    files = {name.partition("::")[0] for name in names}
    stale = [
        each
        for each in slow - names.keys()
        if each.partition("::")[0] in files or not (folder / each.partition("::")[0]).is_file()
    ]
    if stale and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"slow.txt lists tests that do not exist: {', '.join(sorted(stale))}")


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed, which must be one strict JSON document."""
        assert self.code == 0, self.err
        return strict_json(self.out)


def strict_json(text: str) -> Any:
    """Parse JSON, without the NaN and Infinity that Python's parser lets pass."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(autouse=True)
def _restored_globals() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_network() -> Callable[..., lct.LocalCriticNetwork]:
    """A convolutional network of three groups for 8x8 images with one channel; the same weights for the same seed."""

    def make(seed: int = 0, num_outputs: int = 3) -> lct.LocalCriticNetwork:
        torch.manual_seed(seed)
        channels = (1, 8, 12, 16)
        groups = [
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.Dropout(0.1))
            for before, after in itertools.pairwise(channels)
        ]
        groups[-1].extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], num_outputs)])
        critics = [lct.make_critic("pooled", (channels[k], 8, 8), num_outputs, depth=1) for k in (1, 2)]
        return lct.LocalCriticNetwork(groups, critics)

    return make


@pytest.fixture(scope="session")
def data() -> lct.Data:
    """Three classes of noisy 8x8 patterns in memory: 96 train, 30 validation and 30 test samples."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(3, 1, 8, 8, generator=generator)

    def split(samples: int) -> lct.TensorSplit:
        targets = torch.arange(samples) % 3
        return lct.TensorSplit(patterns[targets] + 0.3 * torch.randn(samples, 1, 8, 8, generator=generator), targets)

    return lct.Data(train=split(96), val=split(30), test=split(30), classes=("a", "b", "c"))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 8x8 images: three classes, 20 train and 6 test images each."""
    root = tmp_path_factory.mktemp("images")
    generator = numpy.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        for split, count in (("train", 20), ("test", 6)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 160, (8, 8, 3), dtype=numpy.uint8)
                pixels[..., 2 - label] += 90
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    torch.manual_seed(0)
    data = lct.load_data(lct.DataConfig(name=str(image_folder), image_size=16))
    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 4}, groups=3, num_outputs=3, image_size=16)
    path = tmp_path_factory.mktemp("trained") / "run"
    lct.train(lct.build_network(recipe), data, lct.TrainConfig(epochs=2, batch_size=18, precision="fp32"), run_dir=path)
    return path


@pytest.fixture
def trained(_trained: Path, tmp_path: Path) -> lct.Run:
    """A run of three groups, trained for two epochs on the images of `image_folder`; the test's own copy."""
    return lct.Run(shutil.copytree(_trained, tmp_path / "run"))


@pytest.fixture
def table_run(tmp_path: Path) -> Callable[..., lct.Run]:
    """Train a perceptron, or another network, for an epoch on a table of 60 rows."""

    def train(*, task: str = "classification", method: str = "local-critic", **network: Any) -> lct.Run:
        path = tmp_path / "t.csv"
        values = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).tolist()
        rows = [f"{a},{b},{c},{a * b if task == 'regression' else int(a > b)}" for a, b, c in values]
        path.write_text("a,b,c,y\n" + "\n".join(rows) + "\n")
        data = lct.load_data(lct.DataConfig(name=str(path), task=task))
        groups = 1 if method == "backprop" else 2
        recipe = {"model": "mlp", "model_args": {"width": 16, "layers": 4}, "features": 3, "groups": groups} | network
        built = lct.build_network(lct.NetworkConfig(**recipe, num_outputs=data.num_outputs))
        config = lct.TrainConfig(epochs=1, batch_size=16, method=method)
        return lct.train(built, data, config, run_dir=tmp_path / "table")

    return train


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command line in this process, without what it says because other tests keep the machine busy."""
    monkeypatch.setattr(working, "SILENT_SECONDS", 600.0)  # lines of work that takes long

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["lctprune", *(str(argument) for argument in arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main()
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines(keepends=True) if not line.startswith("Note: latencies vary by ")]
        return Result(int(exit.value.code or 0), out, "".join(lines))

    return run
