"""Splits in memory: augmentation against a slow oracle, order, normalisation."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

import lctprune as lct
from lctprune.config.images import ImagePreprocessing
from lctprune.data.images.files import FolderSplit
from lctprune.data.images.fitting import RandomChanges
from lctprune.data.images.layout import list_folder
from lctprune.data.images.workers import ImageReaders
from lctprune.data.preprocessing import Augmentation, Normalization, draw_shifts, shift_and_flip
from lctprune.data.tensor_split import TensorSplit
from lctprune.errors import DataError

PLAIN = Normalization((0.0,) * 3, (1.0,) * 3)
COLOURS = Normalization((0.1, 0.4, 0.6), (0.2, 0.5, 0.3))


def random_images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def changed(images: Tensor, indices: Sequence[int], augmentation: Augmentation, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mirrored = (torch.rand(len(indices), generator=generator) < 0.5) & augmentation.flip
    size = (images.shape[1], images.shape[2])
    draws = draw_shifts(torch.tensor(indices), mirrored, size, augmentation.crop, generator)
    return shift_and_flip(images, draws)


# --- shift_and_flip --------------------------------------------------------------------------------------------------


def variants(image: Tensor, augmentation: Augmentation) -> list[bytes]:
    """Make every crop of the padded image and its mirror image, one by one: the oracle."""
    height, width, _ = image.shape
    crop = augmentation.crop
    padded = numpy.pad(image.numpy(), ((crop, crop), (crop, crop), (0, 0)), mode="reflect")
    crops = [
        padded[top : top + height, left : left + width]
        for top, left in itertools.product(range(2 * crop + 1), repeat=2)
    ]
    mirrored = [each[:, ::-1] for each in crops] if augmentation.flip else []
    return [each.tobytes() for each in [*crops, *mirrored]]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("shape", "crop"), [((5, 7, 3), 1), ((6, 4, 1), 2), ((4, 4, 3), 3), ((5, 5, 2), 0)], ids=lambda value: str(value)
)
def test_every_crop_and_mirror_image_comes_and_nothing_else(shape: tuple[int, int, int], crop: int, flip: bool) -> None:
    augmentation = Augmentation(crop=crop, flip=flip)
    images = random_images(3, *shape)
    indices = [2, 0] * 2000
    results = changed(images, indices, augmentation)
    assert results.shape == (4000, *shape)
    for index in (0, 2):
        expected = Counter(variants(images[index], augmentation))  # of few pixels, two may be the same
        found = Counter(
            result.numpy().tobytes() for result, source in zip(results, indices, strict=True) if source == index
        )
        assert len(expected) > (2 * crop + 1) ** 2 // 2
        assert set(found) == set(expected)
        share = 2000 / expected.total()
        assert all(found[each] < 3 * share * expected[each] for each in found)  # none much more often than due


def test_each_image_of_a_batch_has_its_own_draw() -> None:
    images = random_images(1, 8, 8, 3)
    results = changed(images, [0] * 32, Augmentation(crop=2, flip=True))  # one of 50 each
    assert len({result.numpy().tobytes() for result in results}) > 16


def test_no_augmentation_is_the_identity() -> None:
    images = random_images(5, 6, 7, 3)
    assert torch.equal(changed(images, [3, 0, 3, 4], Augmentation()), images[[3, 0, 3, 4]])


def test_augmentation_is_the_seeds() -> None:
    images, indices = random_images(8, 9, 9, 3), list(range(8))
    augmentation = Augmentation(crop=3, flip=True)
    first = changed(images, indices, augmentation, seed=1)
    torch.rand(1)  # the global generator has no part in it
    assert torch.equal(changed(images, indices, augmentation, seed=1), first)
    assert not torch.equal(changed(images, indices, augmentation, seed=2), first)


# --- TensorSplit -----------------------------------------------------------------------------------------------------


def numbered_split(count: int, augmentation: Augmentation = Augmentation(crop=2, flip=True)) -> TensorSplit:  # noqa: B008
    """Image i is all of value i, whatever its crop, and so is its target."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 8, 8, 1)
    return TensorSplit(images, torch.arange(count), augmentation=augmentation)


def numbers(inputs: Tensor) -> list[int]:
    values = (inputs * 255).round().long()
    assert (values == values[:, :1, :1, :1]).all()
    return values[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 5, 20, 23, 40])
def test_batches_are_in_order_and_complete(batch_size: int) -> None:
    batches = list(numbered_split(23).batches(batch_size))
    sizes = [len(targets) for _, targets in batches]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= batch_size
    assert [number for inputs, _ in batches for number in numbers(inputs)] == list(range(23))
    assert torch.cat([targets for _, targets in batches]).tolist() == list(range(23))


def test_batches_are_not_augmented() -> None:
    images = random_images(6, 8, 8, 3)
    split = TensorSplit(images, torch.arange(6), PLAIN, Augmentation(crop=3, flip=True))
    for _ in range(2):
        [(inputs, _)] = split.batches(6)
        assert torch.equal((inputs * 255).round().byte(), images.permute(0, 3, 1, 2))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 20, 23, 40])
def test_shuffled_gives_full_batches_and_no_sample_twice(batch_size: int) -> None:
    batches = list(numbered_split(23).shuffled(batch_size, seed=0))
    full = min(batch_size, 23)
    assert [len(targets) for _, targets in batches] == [full] * (23 // full)
    for inputs, targets in batches:
        assert numbers(inputs) == targets.tolist()
    seen = torch.cat([targets for _, targets in batches]).tolist()
    assert len(set(seen)) == len(seen)
    assert seen != sorted(seen)


def test_the_order_is_the_seeds() -> None:
    split = numbered_split(64)
    orders = [[targets.tolist() for _, targets in split.shuffled(8, seed=seed)] for seed in (0, 1, 0)]
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert sorted(itertools.chain(*orders[1])) == list(range(64))


def test_two_passes_show_every_image_from_both_sides() -> None:
    images = torch.arange(8, dtype=torch.uint8)[None, None, :, None].expand(200, 8, 8, 1)
    split = TensorSplit(images, torch.arange(200), augmentation=Augmentation(flip=True))
    mirrored = []
    for seed in range(4):
        [(inputs, order)] = split.shuffled(200, seed=seed)
        found = torch.empty(200, dtype=torch.bool)
        found[order] = inputs[:, 0, 0, 0] > inputs[:, 0, 0, -1]
        mirrored.append(found)
    assert 60 < mirrored[0].sum() < 140
    assert torch.equal(mirrored[1], ~mirrored[0])
    assert torch.equal(mirrored[2], mirrored[0])
    assert torch.equal(mirrored[3], mirrored[1])


def test_reading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    assert len(list(numbered_split(8).batches(4)) + list(numbered_split(8).shuffled(4, seed=0))) == 4
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floating_inputs_pass_untouched(dtype: torch.dtype) -> None:
    inputs = torch.arange(30, dtype=dtype).reshape(10, 3) * 100
    targets = torch.arange(20).reshape(10, 2)
    split = TensorSplit(inputs, targets, COLOURS, Augmentation(crop=1, flip=True))
    batches = list(split.batches(4))
    assert torch.equal(torch.cat([batch for batch, _ in batches]), inputs)
    assert torch.equal(torch.cat([batch for _, batch in batches]), targets)
    for batch, batch_targets in split.shuffled(5, seed=3):
        assert batch.dtype == dtype
        assert torch.equal(batch, inputs[batch_targets[:, 0] // 2])


@pytest.mark.parametrize(("inputs", "targets"), [(3, 2), (0, 0)])
def test_a_split_needs_a_target_for_each_input(inputs: int, targets: int) -> None:
    with pytest.raises(DataError, match=f"got {inputs} inputs and {targets} targets"):
        TensorSplit(torch.zeros(inputs, 2), torch.zeros(targets))


# --- Normalization ---------------------------------------------------------------------------------------------------


def normalized(images: Tensor, normalization: Normalization) -> Tensor:
    """Torchvision's way, channel by channel in another layout."""
    pixels = v2.functional.to_dtype(images.permute(0, 3, 1, 2).contiguous(), torch.float32, scale=True)
    return v2.functional.normalize(pixels, list(normalization.mean), list(normalization.std))


@pytest.mark.parametrize(
    "normalization", [PLAIN, COLOURS, Normalization((0.5,), (0.25,))], ids=["plain", "rgb", "grey"]
)
def test_normalization_is_torchvisions(normalization: Normalization) -> None:
    images = random_images(4, 5, 6, len(normalization.mean))
    result = normalization.apply(images)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, normalized(images, normalization), rtol=1e-5, atol=1e-5)
    assert torch.equal(images, random_images(4, 5, 6, len(normalization.mean)))  # not changed in place


@pytest.mark.parametrize("shape", [(7, 5, 4, 3), (1, 3, 3, 1), (20, 2, 2, 4)])
def test_normalization_is_measured_as_numpy_does(shape: tuple[int, ...]) -> None:
    images = random_images(*shape) // torch.arange(1, shape[-1] + 1, dtype=torch.uint8)
    pixels = images.numpy().reshape(-1, shape[-1]) / 255
    measured = Normalization.of(images)
    assert measured.mean == pytest.approx(pixels.mean(0), abs=1e-6)
    assert measured.std == pytest.approx(pixels.std(0), abs=1e-6)


def test_a_channel_of_one_colour_can_be_normalised() -> None:
    images = torch.full((3, 4, 4, 1), 51, dtype=torch.uint8)
    normalization = Normalization.of(images)
    assert normalization.mean == pytest.approx((0.2,))
    assert normalization.apply(images).abs().max() < 1e-3


# --- classes of uneven size ------------------------------------------------------------------------------------------


def test_balanced_passes_show_every_class_equally_often(tmp_path: Path) -> None:
    counts, images = {"a": 30, "b": 5, "c": 12}, iter(random_images(60, 8, 8, 3))
    for split in ("train", "test"):
        for name, count in counts.items():
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count if split == "train" else 2):
                Image.fromarray(next(images).numpy()).save(tmp_path / split / name / f"{index}.png")
    options = {"name": str(tmp_path), "val_fraction": 0.01, "augment": "none", "workers": 0}
    data, plain = (lct.load_data(lct.DataConfig(**options, balance_classes=each)) for each in (True, False))
    square = ImagePreprocessing.of(8)
    readers = ImageReaders(RandomChanges(square, Augmentation()), 0)
    paths = list_folder(plain.config).train[0]
    files = FolderSplit(paths, data.train.targets, PLAIN, preprocessing=square, readers=readers).balanced()
    assert data.train.targets.bincount().tolist() == [29, 4, 11]
    seen: set[bytes] = set()
    for seed in range(6):
        [(inputs, targets)] = data.train.shuffled(44, seed=seed)
        assert sorted(targets.bincount().tolist()) == [14, 15, 15]
        repeats = Counter(image.numpy().tobytes() for image, label in zip(inputs, targets, strict=True) if label == 1)
        assert {3, 4} >= set(repeats.values())
        assert len(repeats) == 4
        seen |= {image.numpy().tobytes() for image in inputs}
        assert torch.equal(next(data.train.shuffled(44, seed=seed))[0], inputs)
        [(_, labels)] = files.shuffled(44, seed=seed)
        assert torch.equal(labels, targets)
    assert len(seen) == 44
    [(_, targets)] = plain.train.shuffled(44, seed=0)
    assert targets.bincount().tolist() == [29, 4, 11]
    for name in ("val", "test"):
        batches = ([labels for _, labels in getattr(each, name).batches(9)] for each in (data, plain))
        assert all(map(torch.equal, *batches))


def test_what_has_no_classes_is_not_balanced() -> None:
    with pytest.raises(lct.ConfigError, match="`balance_classes` needs classes"):
        lct.DataConfig(name="a.csv", task="regression", balance_classes=True)
    stream = lct.Split.from_dataset([(torch.zeros(2), 1)])
    with pytest.raises(lct.DataError, match="DatasetSplit cannot be balanced"):
        stream.balanced()
