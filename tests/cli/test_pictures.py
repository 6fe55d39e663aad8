"""Pictures from the command line: what is printed, recorded and exported, and what is fed without lctprune."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

import lctprune as lct

Cli = Callable[..., Any]
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "deploy_without_lctprune.py"
QUICK = ("--groups", 2, "--model-args", "width=2", "--epochs", 1, "--precision", "fp32", "--batch-size", 8)


def prepare() -> Callable[..., torch.Tensor]:
    """Load the function of the example that feeds a network without lctprune."""
    spec = importlib.util.spec_from_file_location("deploy_without_lctprune", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    prepare: Callable[..., torch.Tensor] = module.prepare
    return prepare


@pytest.fixture(scope="module")
def phone_and_camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images 12 x 8: turned by EXIF, transparent, and of 12 bits."""
    root = tmp_path_factory.mktemp("pictures")
    generator = numpy.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 8
    for split, count in (("train", 12), ("test", 3)):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                path = root / split / name / f"{index}.png"
                ink = generator.integers(0, 256, (8, 12)).astype(numpy.uint8)
                if index % 3 == 0:
                    Image.fromarray(ink).convert("RGB").save(path, exif=exif)
                elif index % 3 == 1:
                    Image.merge("LA", (Image.fromarray(ink), Image.fromarray(ink[::-1].copy()))).save(path)
                else:
                    Image.fromarray(ink.astype(numpy.uint16) << 4).save(path)
    return root


@pytest.mark.parametrize(
    ("options", "resize", "background", "size"),
    [
        ((), "crop", [255, 255, 255], 8),
        (("--resize", "pad", "--background", "#0a14c8"), "pad", [10, 20, 200], 12),
        (("--resize", "squeeze", "--image-size", 9), "squeeze", [255, 255, 255], 9),
    ],
)
def test_what_is_fed_without_lctprune_is_what_was_trained_on(
    options: tuple[Any, ...],
    resize: str,
    background: list[int],
    size: int,
    cli: Cli,
    phone_and_camera: Path,
    tmp_path: Path,
) -> None:
    result = cli("train", "vgg-lct", "--data", phone_and_camera, "--out", tmp_path / "run", *options, *QUICK)
    assert result.code == 0, result.err
    printed = " ".join(result.err.split())
    assert f"Images: {size} x {size} pixels, {resize}" in printed
    assert "values 0 to 4095" in printed
    assert ("33%" in printed) == (resize == "crop")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["data"]["preprocessing"]
    assert (recorded["size"], recorded["resize"], recorded["background"]) == (size, resize, background)
    assert cli("export", tmp_path / "run", "--exit", 0, "--out", tmp_path / "out").code == 0
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    expected = about["input"]
    assert expected["shape"] == ["batch", 3, size, size]
    for name in ("size", "shorter_side", "resize", "background", "values"):
        assert expected[name] == recorded[name]
    assert expected["values"] == {"low": 0, "high": 4095, "step": 16}
    assert (expected["orientation"], expected["interpolation"]) == ("exif", "bilinear, antialiased")

    data = lct.Run(tmp_path / "run").load_data()
    inputs, _ = next(data.test.batches(6))
    paths = sorted((phone_and_camera / "test").glob("*/*.png"))
    feed = prepare()
    fed = torch.stack([feed(path, about) for path in paths])
    level = 1 / 255 / min(expected["std"])  # resized pixels may be one beside Pillow's
    torch.testing.assert_close(fed, inputs, atol=1.01 * level, rtol=0)
    assert (fed - inputs).abs().mean() < 0.1 * level


def test_a_colour_that_there_is_not_is_wrong_usage(cli: Cli, tmp_path: Path) -> None:
    result = cli("train", "vgg-lct", "--background", "blak", "--out", tmp_path / "run")
    assert result.code == 2
    assert "background is 'blak'" in result.err
    assert not (tmp_path / "run").exists()


def test_weights_of_a_run_keep_its_range_where_it_holds_the_new_images(cli: Cli, tmp_path: Path) -> None:
    generator = numpy.random.default_rng(0)
    recorded = {}
    for name, bits in {"run": 12, "dark": 10, "bright": 14}.items():
        for split, label, index in ((s, c, i) for s in ("train", "test") for c in "ab" for i in range(10)):
            path = tmp_path / name / split / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 2**bits, (8, 8)).astype(numpy.uint16)).save(path)
        out = tmp_path / f"{name}-out"
        weights = () if name == "run" else ("--weights", tmp_path / "run-out")
        result = cli("train", "vgg-lct", "--data", tmp_path / name, "--out", out, *weights, *QUICK)
        assert result.code == 0, result.err
        noted = "was trained on images with values from 0 to 4095" in " ".join(result.err.split())
        assert noted == (name == "bright")
        recorded[name] = json.loads((out / "config.json").read_text())["data"]["preprocessing"]["values"]["high"]
    assert recorded == {"run": 4095, "dark": 4095, "bright": 16383}
