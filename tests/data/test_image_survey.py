"""A sample of the training images decides their size, resizing and range, and shows images that are all alike."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

import lctprune as lct
from lctprune.config.images import FULL_16_BITS, ImagePreprocessing, ValueRange
from lctprune.data.images.files import FolderSplit, decode_images
from lctprune.data.images.survey import natural_size
from lctprune.data.images.value_range import ImageValues, range_of
from lctprune.errors import ConfigError, DataError, DataWarning

RANDOM = numpy.random.default_rng(0)
Save = Callable[[Path, int], None]  # path without suffix, number of the image


def folder(root: Path, save: Save, count: int = 10) -> Path:
    for split, each in (("train", count), ("test", 2)):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for index in range(each):
                save(root / split / name / f"{index:03d}", index)
    return root


def noise(width: int, height: int | None = None) -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 256, (height or width, width)).astype(numpy.uint8))


def deep(bits: int, *, offset: int = 0) -> Save:
    def save(path: Path, _: int) -> None:
        values = RANDOM.integers(0, 2**bits, (8, 8)).astype(numpy.uint16) + numpy.uint16(offset)
        Image.fromarray(values).save(path.with_suffix(".png"))

    return save


def load(root: Path, **options: Any) -> tuple[lct.Data, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        data = lct.load_data(lct.DataConfig(name=str(root), **{"val_fraction": 0.2, **options}))
    return data, [str(warning.message) for warning in caught]


def steps_of(data: lct.Data) -> ImagePreprocessing:
    assert data.preprocessing is not None
    return data.preprocessing


def pixels(split: Any) -> Tensor:
    inputs: Tensor = split.inputs
    return inputs


# --- size and resizing -----------------------------------------------------------------------------------------------


def test_one_odd_file_does_not_set_the_size(tmp_path: Path) -> None:
    def save(path: Path, index: int) -> None:
        noise(9 if index == 0 else 12 + index % 3).save(path.with_suffix(".png"))

    data, notes = load(folder(tmp_path, save))
    assert steps_of(data).size == data.example.shape[-1] == 13
    assert notes == []


@pytest.mark.parametrize(
    ("sides", "resize", "size"),
    [
        ([(5, 9)] * 3, "crop", 8),
        ([(20, 31), (30, 21), (90, 96)], "crop", 21),
        ([(20, 31), (30, 21), (90, 96)], "squeeze", 21),
        ([(20, 31), (30, 21), (90, 96)], "pad", 31),
        ([(96, 200)], "crop", 96),
        ([(97, 97)], "crop", 96),
        ([(141, 150)], "crop", 128),
        ([(224, 300)], "crop", 224),
        ([(3000, 4000)], "crop", 224),
    ],
)
def test_the_size_is_the_median_side_and_blows_nothing_up(sides: list[tuple[int, int]], resize: Any, size: int) -> None:
    assert natural_size(sides, resize) == size


def ends(path: Path, index: int) -> None:
    """An image of 24 x 8 with its ink at one end."""
    canvas = Image.new("L", (24, 8))
    canvas.paste(noise(8), (0 if index % 2 else 16, 0))
    canvas.save(path.with_suffix(".png"))


def test_ways_of_resizing_differ_and_only_the_crop_loses_the_ends(tmp_path: Path) -> None:
    folder(tmp_path, ends)
    found = {resize: load(tmp_path, resize=resize, image_size=24) for resize in ("crop", "pad", "squeeze", "auto")}
    seen = {resize: pixels(data.train) for resize, (data, _) in found.items()}
    assert not pixels(load(tmp_path, resize="crop")[0].train).any()  # at the size of the images: nothing is blurred
    for resize in ("pad", "squeeze"):
        assert found[resize][1] == []
        assert (seen[resize][:, 8:16] > 0).any()
    assert torch.equal(seen["auto"], seen["pad"])
    assert (seen["pad"][:, :8] == 255).all()  # the background above the image
    assert not torch.equal(seen["pad"], seen["squeeze"])
    assert any("67%" in note and "`resize=pad`" in note for note in found["crop"][1])
    assert ["67%" in note and "padded" in note for note in found["auto"][1]] == [True]
    assert steps_of(found["auto"][0]).resize == "pad"
    assert steps_of(load(tmp_path, resize="auto")[0]).size == 24


@pytest.mark.parametrize(("width", "noted"), [(8, False), (9, False), (12, True)])
def test_a_crop_of_more_than_a_fifth_is_noted(width: int, noted: bool, tmp_path: Path) -> None:
    data, notes = load(folder(tmp_path, lambda path, _: noise(width, 8).save(path.with_suffix(".png"))))
    assert steps_of(data).resize == "crop"
    assert [("33%" in note) for note in notes] == [True] * noted


@pytest.mark.parametrize("resize", ["crop", "pad", "squeeze"])
@pytest.mark.parametrize("size", [12, 112])
def test_images_in_memory_and_in_files_give_equal_pixels(resize: Any, size: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"]
    noise(30, 20).convert("RGB").save(paths[0], exif=exif)
    Image.merge("LA", (noise(20, 25), noise(20, 25))).save(paths[1])
    deep(12)(paths[2].with_suffix(""), 0)
    steps = ImagePreprocessing.of(size, resize=resize, values=ValueRange.of(0, 4095, is_integer=True))
    plain = lct.Normalization((0.0,) * 3, (1.0,) * 3)
    [(streamed, _)] = FolderSplit(paths, torch.zeros(3), plain, preprocessing=steps).batches(3)
    assert torch.equal((streamed * 255).round().byte().permute(0, 2, 3, 1), decode_images(paths, steps))


def test_streamed_images_that_are_not_cropped_are_shifted_whole(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path in paths:
        noise(30, 10).convert("RGB").save(path)
    steps = ImagePreprocessing.of(16, resize="squeeze")
    plain = lct.Normalization((0.0,) * 3, (1.0,) * 3)
    split = FolderSplit(paths, torch.arange(4), plain, lct.Augmentation(crop=1), preprocessing=steps)
    whole = decode_images(paths, steps).permute(0, 3, 1, 2) / 255
    [(inputs, targets)] = split.shuffled(4, seed=0)
    padded = torch.nn.functional.pad(whole[targets], (1, 1, 1, 1), mode="reflect")
    shifts = [padded[:, :, row : row + 16, column : column + 16] for row in range(3) for column in range(3)]
    assert all(any(torch.allclose(inputs[i], shift[i], atol=1e-6) for shift in shifts) for i in range(4))


# --- background ------------------------------------------------------------------------------------------------------


def test_the_background_is_the_user_s(tmp_path: Path) -> None:
    def save(path: Path, _: int) -> None:
        Image.merge("LA", (Image.new("L", (8, 8)), noise(8))).save(path.with_suffix(".png"))

    folder(tmp_path, save)
    white, notes = load(tmp_path)
    assert pixels(white.train).unique().numel() > 100
    assert notes == []
    black, [note] = load(tmp_path, background="black")
    assert not pixels(black.train).any()
    assert "all alike" in note
    assert "`background`" in note
    assert steps_of(load(tmp_path, background="#0a14c8")[0]).background == (10, 20, 200)
    for wrong in ("blak", "#12345", "#12345678"):
        with pytest.raises(ConfigError, match=f"background is '{wrong}'"):
            lct.DataConfig(background=wrong)


# --- the range of values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "high"), [(8, 255), (10, 1023), (12, 4095), (14, 16383), (16, 65535)])
def test_the_range_of_a_data_set_is_recognised(bits: int, high: int, tmp_path: Path) -> None:
    data, notes = load(folder(tmp_path, deep(bits)))
    assert steps_of(data).values == ValueRange.of(0, high, is_integer=True)
    assert pixels(data.train).unique().numel() > 200
    assert pixels(data.test).unique().numel() > 60
    assert notes == []


def test_dark_images_share_the_range_of_bright_ones(tmp_path: Path) -> None:
    def save(path: Path, index: int) -> None:
        deep(12 if index == 3 else 10)(path, index)

    assert str(steps_of(load(folder(tmp_path, save))[0]).values) == "0 to 4095"


def test_a_range_that_does_not_begin_at_0_is_measured(tmp_path: Path) -> None:
    data, _ = load(folder(tmp_path, deep(11, offset=28000)))
    values = steps_of(data).values
    assert values is not None
    assert 28000 <= values.low < 28100
    assert 30000 < values.high <= 30048
    assert pixels(data.train).unique().numel() > 200


def summary(low: float, high: float, *, is_integer: bool = True) -> ImageValues:
    return ImageValues(low=low, high=high, typical_low=low, typical_high=high, is_integer=is_integer)


def test_one_odd_file_does_not_set_the_range() -> None:
    images = [summary(0, 1000)] * 50 + [summary(0, 65535)]
    with pytest.warns(DataWarning, match="1 of the 51 images .* outside 0 to 1023"):
        assert range_of(images) == ValueRange.of(0, 1023, is_integer=True)
    few_pixels = ImageValues(low=0, high=65535, typical_low=0, typical_high=4000, is_integer=True)  # hot pixels
    with pytest.warns(DataWarning, match="outside 0 to 4095"):
        assert range_of([few_pixels] * 3).high == 4095


@pytest.mark.parametrize(
    ("low", "high", "is_integer", "expected"),
    [
        (0.0, 0.9, False, (0, 1, 1 / 256)),
        (0.0, 200.0, False, (0, 255, 255 / 256)),
        (-3.0, 5.0, False, (-3, 5, 8 / 256)),
        (-1024, 3071, True, (-1024, 3071, 16)),
        (0, 200_000, True, (0, 200_000, 200_001 / 256)),
        (7, 7, True, (0, 255, 1)),
    ],
)
def test_ranges_of_other_numbers(low: float, high: float, is_integer: bool, expected: tuple[float, ...]) -> None:
    found = range_of([summary(low, high, is_integer=is_integer)] * 3)
    assert (found.low, found.high, found.step) == expected


def test_colours_of_16_bits_that_cannot_be_read_in_full_are_refused_if_dark(tmp_path: Path) -> None:
    def save(shift: int) -> Save:
        def write(path: Path, _: int) -> None:
            values = RANDOM.integers(0, 256, (8, 8, 3)).astype(numpy.uint16) << shift
            path.with_suffix(".ppm").write_bytes(b"P6 8 8 65535\n" + values.astype(">u2").tobytes())

        return write

    assert pixels(load(folder(tmp_path / "full", save(8)))[0].train).unique().numel() > 200
    with pytest.raises(DataError, match=r"16 bits a channel.*reach 16 of 255"):
        load(folder(tmp_path / "dark", save(4)))


# --- images that are all alike ---------------------------------------------------------------------------------------


def test_a_class_whose_images_are_all_alike_is_named(tmp_path: Path) -> None:
    def save(path: Path, _: int) -> None:
        (noise(8) if path.parent.name == "a" else Image.new("L", (8, 8), 7)).save(path.with_suffix(".png"))

    _, [note] = load(folder(tmp_path, save))
    assert "'b' (8)" in note
    assert "'a'" not in note


# --- runs ------------------------------------------------------------------------------------------------------------


def trained(root: Path, run_dir: Path, **options: Any) -> lct.Run:
    data, _ = load(root, **options)
    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 2}, groups=2, num_outputs=2, image_size=8)
    config = lct.TrainConfig(epochs=1, batch_size=8, precision="fp32")
    return lct.train(lct.build_network(recipe), data, config, run_dir=run_dir)


def test_a_run_keeps_the_range_that_it_was_trained_with(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", deep(12))
    run = trained(root, tmp_path / "run")
    recorded = json.loads((run.path / "config.json").read_text())["data"]["preprocessing"]
    assert recorded["values"] == {"low": 0, "high": 4095, "step": 16}
    deep(16)(root / "train" / "a" / "000", 0)  # whatever becomes of the files
    deep(16)(root / "train" / "b" / "000", 0)
    again = lct.Run(run.path).load_data()
    assert again.preprocessing == run.load_data().preprocessing
    assert str(steps_of(again).values) == "0 to 4095"
    other, _ = load(root, background="black")
    with pytest.raises(lct.RunError, match=r"preprocessing was .*ffffff"):
        run.require_alike(other)


def test_a_run_of_an_earlier_version_reads_images_as_it_was_trained(tmp_path: Path) -> None:
    def save(path: Path, index: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        image = Image.merge("LA", (noise(8), noise(8))).convert("RGBA")
        image.save(path.with_suffix(".png"), exif=exif)

    root = folder(tmp_path / "data", save)
    run = trained(root, tmp_path / "run")
    path = run.path / "config.json"
    content = json.loads(path.read_text())
    content["data"]["resize"] = content["data"].pop("preprocessing")["size"]
    for name in ("resize", "background"):
        del content["data"]["config"][name]
    path.write_text(json.dumps(content))
    earlier = lct.Run(run.path)
    data = earlier.load_data()
    first = sorted((root / "test" / "a").iterdir())[0]
    assert numpy.array_equal(pixels(data.test)[0], numpy.asarray(Image.open(first).convert("RGB")))
    assert (steps_of(data).size, steps_of(data).values) == (8, FULL_16_BITS)
    network = lct.build_network(run.config.network or lct.NetworkConfig())
    resumed = lct.train(
        network, data, lct.TrainConfig(epochs=1, batch_size=8, precision="fp32"), run_dir=run.path, resume=True
    )
    assert resumed.epochs_done == 1
