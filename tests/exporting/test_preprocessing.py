"""Files that take pixels and give probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy
import onnxruntime
import openvino
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lctprune as lct
from lctprune import export
from lctprune.config.images import ImagePreprocessing
from lctprune.data.images.files import fitted, pixels_of
from lctprune.exporting.preprocessing import FromPixels

Cli = Callable[..., Any]
SIZES = [(1, 50, 70), (3, 90, 41), (2, 32, 32), (2, 301, 300), (1, 9, 100)]  # batch, height, width


def images(batch: int, height: int, width: int) -> Tensor:
    """Smooth pictures with some noise, uint8 [batch, height, width, 3]."""
    random = torch.Generator().manual_seed(height)
    ramp = torch.linspace(0, 200, height)[:, None, None] * torch.tensor([1.0, 0.5, 0.2])
    return (ramp + torch.rand(batch, height, width, 3, generator=random) * 55).to(torch.uint8)


def wrapped(resize: Literal["crop", "pad", "squeeze"], *, margin: int = 4) -> FromPixels:
    """A file of which the outputs are the pixels that the network sees, 0 to 255."""
    steps = ImagePreprocessing(
        size=32, shorter_side=32 + margin * (resize == "crop"), resize=resize, background=(10, 200, 30)
    )
    return FromPixels(nn.Flatten(), steps, (0.0,) * 3, (1 / 255,) * 3, meaning="values").eval()


@pytest.mark.parametrize("resize", ["crop", "pad", "squeeze"])
def test_pixels_are_those_of_training(resize: Literal["crop", "pad", "squeeze"]) -> None:
    network = wrapped(resize)
    for size in SIZES:
        given = images(*size)
        expected = fitted(given[0], network.preprocessing).permute(2, 0, 1).flatten().float()
        difference = (network(given)[0] - expected).abs()
        assert difference.max() <= 1.6, size  # of 256 levels; pictures are rounded twice
        assert difference.mean() < 0.5, size


@pytest.mark.parametrize(("resize", "format"), [("crop", "torchscript"), ("pad", "torchscript"), ("crop", "pt2")])
def test_a_file_takes_images_of_any_size(
    resize: Literal["crop", "pad", "squeeze"], format: Literal["torchscript", "pt2"], tmp_path: Path
) -> None:
    network = nn.Sequential(wrapped(resize), nn.Linear(3 * 32 * 32, 4), nn.Softmax(1)).eval()
    path = export(network, images(2, 40, 50), tmp_path / "m.pt2", format=format)
    load: Any = torch.jit.load if format == "torchscript" else lambda file: torch.export.load(file).module()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("warnings.warn", lambda *_, **__: None)
        file = load(path)
        for size in SIZES:
            torch.testing.assert_close(file(images(*size)), network(images(*size)), rtol=1e-3, atol=1e-4)


def test_openvino_smooths_images_that_it_makes_smaller(tmp_path: Path) -> None:
    path = export(wrapped("crop"), images(2, 40, 50), tmp_path / "m.xml", format="openvino")
    file = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in SIZES:
        expected = wrapped("crop")(images(*size))
        numpy.testing.assert_allclose(file(images(*size).numpy())[0], expected.numpy(), rtol=1e-3, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torchscript", "pt2,onnx"])
def test_a_run_is_exported_with_its_preprocessing(
    format: str, cli: Cli, trained: lct.Run, image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = cli("export", trained.path, "--exit", 0, "--format", format, "--with-preprocessing", "--out", out)
    assert result.code == 0, result.err
    card = json.loads((out / "model.json").read_text())
    assert card["input"]["shape"] == ["batch", "height", "width", 3]
    assert card["input"]["dtype"] == "uint8"
    assert "subtract mean" in card["input"]["inside_the_file"]
    assert "subtract mean" not in card["input"]["preprocessing"]
    assert "probability" in card["output"]["meaning"]
    for file in card["files"]:
        assert file["check"]["score"] == file["check"]["score_of_network"]
        assert file["check"]["score"] == pytest.approx(validation_accuracy(trained), abs=0.1)
    if "onnx" in format:  # from a picture to a class, with nothing but Pillow and ONNX Runtime
        path = next((image_folder / "test").glob("*/*.png"))
        session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
        (outputs,) = session.run(None, {"input": numpy.asarray(Image.open(path).convert("RGB"))[None]})
        assert outputs.sum() == pytest.approx(1, abs=1e-5)
        assert numpy.abs(outputs[0] - expected_probabilities(trained, path)).max() < 0.02


def validation_accuracy(run: lct.Run) -> float:
    return float(json.loads((run.path / "candidates.json").read_text())["candidates"][0]["accuracy"])


def expected_probabilities(run: lct.Run, path: Path) -> Any:
    record = run.config.data
    pixels = pixels_of(path, record.preprocessing)[None]
    x = lct.Normalization(record.mean, record.std).apply(pixels)
    with torch.no_grad():
        return lct.load_network(run.path).eval().subnetwork(0)(x).softmax(1)[0].numpy()


def test_a_program_exports_with_preprocessing(trained: lct.Run, image_folder: Path, tmp_path: Path) -> None:
    data, network = trained.load_data(), lct.load_network(trained).subnetwork(0).train()
    samples, _ = next(data.val.batches(6))
    lct.export(network, samples, tmp_path / "model.pt", data=data, with_preprocessing=True)
    assert all(module.training for module in network.modules())
    (found,) = lct.predict(tmp_path / "model.pt", [image_folder / "test" / "red" / "0.png"])
    expected = expected_probabilities(trained, image_folder / "test" / "red" / "0.png")
    numpy.testing.assert_allclose([dict(found.top)[name] for name in data.classes], expected, atol=0.02)
    for options, words in [({}, "needs data="), ({"data": data, "format": "state-dict"}, "a format that holds")]:
        with pytest.raises(lct.ConfigError, match=words):
            lct.export(network, samples, tmp_path / "other.pt", with_preprocessing=True, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.pt", "run"]


def test_numbers_that_were_not_standardised_stay_as_they_are(tmp_path: Path) -> None:
    def split(targets: Tensor) -> lct.TensorSplit:
        return lct.TensorSplit(torch.rand(len(targets), 1, 8, 8), targets)

    numbers, labels = split(torch.randn(8, 2)), split(torch.tensor([[0.0, 1.0]] * 8))
    normalization = lct.Normalization((0.0,), (1 / 255,))
    for each, meaning in [(numbers, "predicted numbers"), (labels, "per label")]:
        made = lct.Data(train=each, val=each, test=each, classes=(), normalization=normalization)
        network, example = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), torch.rand(3, 1, 8, 8)
        lct.export(network, example, tmp_path / "model.pt", data=made, with_preprocessing=True)
        card = json.loads((tmp_path / "model.json").read_text())
        assert meaning in card["output"]["meaning"]


def test_what_has_no_preprocessing_to_export_is_refused(
    cli: Cli, table_run: Callable[..., lct.Run], tmp_path: Path
) -> None:
    run = table_run()
    result = cli("export", run.path, "--with-preprocessing", "--out", tmp_path / "out")
    assert result.code == 2
    assert "for images only" in result.err
    result = cli("export", run.path, "--with-preprocessing", "--format", "state-dict", "--out", tmp_path / "out")
    assert result.code == 2
    assert "weights only" in result.err
    assert not (tmp_path / "out").exists()
