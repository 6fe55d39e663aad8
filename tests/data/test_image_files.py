"""Image files: streamed and decoded."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy
import pytest
import torch
from equality import same
from PIL import Image
from torch import Tensor, nn

import lctprune as lct
from lctprune.config.data import DataConfig
from lctprune.config.images import ImagePreprocessing
from lctprune.data.images.files import FolderSplit, decode_images
from lctprune.data.images.fitting import RandomChanges, random_part
from lctprune.data.images.workers import ImageReaders
from lctprune.data.preprocessing import Augmentation, Normalization
from lctprune.data.tensor_split import TensorSplit
from lctprune.errors import ConfigError, DataError

PLAIN = Normalization((0.0,) * 3, (1.0,) * 3)
COLOURS = Normalization((0.1, 0.4, 0.6), (0.2, 0.5, 0.3))


def random_images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


# --- FolderSplit: images whose shorter side is 16 are not resized, but cropped to 14 ---------------------------------

SIZE, RESIZED = 14, 16
WITH_MARGIN = ImagePreprocessing(size=SIZE, shorter_side=RESIZED)


def saved(images: Tensor, folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index}.png" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.numpy()).save(path)
    return paths


def folder_split(
    folder: Path, augmentation: Augmentation, count: int = 6, normalization: Normalization = PLAIN
) -> tuple[FolderSplit, Tensor]:
    """Make a split of image files, and crop the centres of its images."""
    images = random_images(count, RESIZED, RESIZED + 4, 3)
    paths, targets = saved(images, folder), torch.arange(count) * 10
    split = FolderSplit(paths, targets, normalization, augmentation, preprocessing=WITH_MARGIN)
    return split, images[:, 1 : 1 + SIZE, 3 : 3 + SIZE]


def uint8(inputs: Tensor) -> Tensor:
    return (inputs * 255).round().byte().permute(0, 2, 3, 1)


def test_streamed_batches_are_those_of_the_centres_in_memory(tmp_path: Path) -> None:
    split, centres = folder_split(tmp_path, Augmentation(crop=2, flip=True), normalization=COLOURS)
    in_memory = TensorSplit(centres, split.targets, COLOURS)
    streamed = list(split.batches(4))
    assert [len(targets) for _, targets in streamed] == [4, 2]
    for (inputs, targets), (expected, labels) in zip(streamed, in_memory.batches(4), strict=True):
        assert torch.equal(inputs, expected)
        assert torch.equal(targets, labels)
        assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_streamed_images_of_any_size_are_resized_to_sixteen_fourteenths(tmp_path: Path) -> None:
    image = Image.fromarray(random_images(48, 32, 3).numpy())
    image.save(tmp_path / "0.png")
    split = FolderSplit([tmp_path / "0.png"], torch.zeros(1), PLAIN, preprocessing=WITH_MARGIN)
    resized = numpy.array(image.resize((16, 24), Image.Resampling.BILINEAR))
    [(inputs, _)] = split.batches(1)
    assert numpy.array_equal(uint8(inputs)[0], resized[5:19, 1:15])


def test_streamed_training_batches_are_the_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, _ = folder_split(tmp_path, Augmentation(crop=2, flip=True))
    before = torch.get_rng_state()
    first, second = list(split.shuffled(4, seed=1)), list(split.shuffled(4, seed=2))
    [_, _] = split.batches(4)
    assert torch.equal(torch.get_rng_state(), before)  # reading leaves the global generator alone
    assert [inputs.shape for inputs, _ in first] == [(4, 3, SIZE, SIZE)]
    assert not torch.equal(first[0][0], second[0][0])
    torch.rand(1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(4)}, raising=False)  # 3 workers, with equal chances
    again, _ = folder_split(tmp_path, Augmentation(crop=2, flip=True))
    [(inputs, targets)] = again.shuffled(4, seed=1)
    assert torch.equal(inputs, first[0][0])
    assert torch.equal(targets, first[0][1])


@pytest.mark.parametrize("flip", [False, True])
def test_streamed_training_images_are_the_centres_where_nothing_is_cropped(flip: bool, tmp_path: Path) -> None:
    split, centres = folder_split(tmp_path, Augmentation(flip=flip), count=12)
    [(inputs, targets)] = split.shuffled(100, seed=0)  # more than there are: one batch of all
    assert sorted(targets.tolist()) == split.targets.tolist()
    assert targets.tolist() != split.targets.tolist()
    expected = centres[targets // 10]
    mirrored = (uint8(inputs) == expected.flip(2)).all((1, 2, 3))
    straight = (uint8(inputs) == expected).all((1, 2, 3))
    assert (mirrored ^ straight).all()
    assert mirrored.any() == flip
    assert straight.any()


def test_the_number_of_workers_changes_no_batch(tmp_path: Path) -> None:
    augmentation = Augmentation(crop=2, flip=True)
    split, centres = folder_split(tmp_path, augmentation)
    expected = list(split.shuffled(2, seed=3))
    for workers in (0, 2):
        readers = ImageReaders(RandomChanges(WITH_MARGIN, augmentation), workers)
        other = FolderSplit(split.paths, split.targets, PLAIN, preprocessing=WITH_MARGIN, readers=readers)
        first = next(other.shuffled(2, seed=3))  # a pass that ends early
        found = []
        for batch, (centre, _) in zip(other.shuffled(2, seed=3), other.batches(2), strict=True):  # two at once
            found.append(batch)
            start = 2 * (len(found) - 1)
            assert torch.equal(uint8(centre), centres[start : start + 2])
        assert torch.equal(first[0], expected[0][0])
        for (inputs, targets), (others, labels) in zip(found, expected, strict=True):
            assert torch.equal(inputs, others)
            assert torch.equal(targets, labels)
        assert len(multiprocessing.active_children()) == (workers if workers else 0) + 1  # and that of `split`
        del other, readers


def test_a_streamed_training_is_resumed_to_the_bit_with_other_workers(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        saved(random_images(6, 100, 110, 3, seed=len(name)), tmp_path / name)
    config = lct.TrainConfig(epochs=2, batch_size=4, precision="fp32")

    def begin(name: str, workers: int, resume: bool = False) -> tuple[lct.Run, Iterator[Any]]:
        data = lct.load_data(DataConfig(name=str(tmp_path), workers=workers))
        torch.manual_seed(0)
        groups = [nn.Sequential(nn.AvgPool2d(24), nn.Flatten()), nn.Linear(48, 2)]
        network = lct.LocalCriticNetwork(groups, [nn.Linear(48, 2)])
        run = lct.open_run(network, data, config, run_dir=tmp_path / name, resume=resume)
        return run, lct.train_steps(network, data, run)

    whole, steps = begin("whole", 0)
    *_, last = steps
    assert last.steps == 2
    part, steps = begin("part", 1)
    assert next(steps).step == 1
    for progress in steps:
        if progress.val_loss:
            break
    del steps, progress
    part, steps = begin("part", 2, resume=True)
    *_, _ = steps
    assert same(part.read_checkpoint(""), whole.read_checkpoint(""))
    assert part.config.to_dict()["data"]["config"]["workers"] == 1  # as it was begun


def test_random_parts_have_the_area_and_the_sides_that_are_asked_for() -> None:
    draw = Random(0)
    drawn = torch.tensor([random_part(60, 100, draw) for _ in range(500)]).double()
    top, left, height, width = drawn.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 60).all()
    assert (left + width <= 100).all()
    area, ratio = height * width / 6000, width / height
    assert 0.33 < area.min() < 0.4
    assert area.max() > 0.7  # a part of the largest ratio, 4/3, is 0.8 of such an image at most
    assert 0.72 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.38
    assert random_part(10, 200, draw) == (0, 93, 10, 13)  # no draw fits
    assert random_part(200, 10, draw) == (93, 0, 13, 10)


def test_the_trainings_part_of_a_large_image_is_cropped_resized_and_mirrored(tmp_path: Path) -> None:
    pixels = random_images(30, 40, 3)
    square = ImagePreprocessing.of(16)
    for seed in range(4):
        draw = Random(seed)
        mirrored = draw.random() < 0.5
        top, left, height, width = random_part(30, 40, draw)
        part = Image.fromarray(pixels.numpy()).crop((left, top, left + width, top + height))
        expected = torch.from_numpy(numpy.array(part.resize((16, 16), Image.Resampling.BILINEAR)))
        found = RandomChanges(square, Augmentation(crop=1, flip=True)).apply(pixels, seed)
        assert (found.int() - (expected.flip(1) if mirrored else expected).int()).abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_is_drawn_by_the_seed_in_memory_and_in_files(channels: int, tmp_path: Path) -> None:
    images = random_images(8, 12, 12, channels)
    normalization = Normalization((0.0,) * channels, (1.0,) * channels)
    strong, before = Augmentation(magnitude=20), torch.get_rng_state()
    split = TensorSplit(images, torch.arange(8), normalization, strong)
    [(first, order)], [(again, _)], [(other, _)] = (split.shuffled(8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    changed = (uint8(first) != images[order]).flatten(1).any(1)
    assert changed.sum() >= 4  # an operation may be none
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    if channels == 3:
        paths, square = saved(images, tmp_path), ImagePreprocessing.of(12)
        files = [
            FolderSplit(paths, torch.arange(8), normalization, each, preprocessing=square)
            for each in (strong, Augmentation())
        ]
        [(found, order)], [(plain, _)] = (each.shuffled(8, seed=1) for each in files)
        assert torch.equal(uint8(plain), images[order])
        assert (found != plain).flatten(1).any(1).sum() >= 4


def test_a_file_that_cannot_be_streamed_is_named_in_one_line(tmp_path: Path) -> None:
    split, _ = folder_split(tmp_path, Augmentation())
    split.paths[5].write_text("not an image")
    with pytest.raises(DataError) as caught:
        list(split.batches(4))
    assert str(caught.value).startswith(f"{split.paths[5]} cannot be read as an image (")
    assert "\n" not in str(caught.value)


# --- decode_images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "ppm", "bmp", "webp"])
def test_truncated_files_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(random_images(16, 16, 3).numpy()).save(path)
    content = path.read_bytes()
    assert decode_images([path], ImagePreprocessing.of(16)).shape == (1, 16, 16, 3)
    for length in (0, 5, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="cannot be read as an image") as caught:
            decode_images([path], ImagePreprocessing.of(8))
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_images_of_the_right_size_are_not_touched(tmp_path: Path) -> None:
    images = random_images(3, 7, 7, 3)
    assert torch.equal(decode_images(saved(images, tmp_path), ImagePreprocessing.of(7)), images)


def test_statistics_of_weights_for_coloured_images_are_refused_for_grey_ones() -> None:
    with pytest.raises(ConfigError, match=r"have 1 channel, and the mean .* of 3: such weights"):
        COLOURS.apply(torch.zeros(1, 2, 2, 1, dtype=torch.uint8))
