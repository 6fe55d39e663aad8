"""Data sets: digits, torchvision's files, image folders; their splits, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import datasets

from lctprune.data.images.files import FolderSplit
from lctprune.data.load import Data, DataConfig, load_data, relocated
from lctprune.data.preprocessing import Augmentation, Normalization
from lctprune.data.splits import Split
from lctprune.data.tensor_split import TensorSplit
from lctprune.errors import ConfigError, DataError, DataWarning


def stored(split: Split) -> Tensor:
    """Return the uint8 images of a split in memory."""
    assert isinstance(split, TensorSplit)
    return split.inputs


def samples(*splits: Split) -> Counter[tuple[bytes, int]]:
    """Every image with its target, and how often it is there."""
    return Counter(
        (image.numpy().tobytes(), int(target))
        for split in splits
        for image, target in zip(stored(split), split.targets, strict=True)
    )


def labelled(images: numpy.ndarray, targets: Sequence[int]) -> Counter[tuple[bytes, int]]:
    return Counter((image.tobytes(), int(target)) for image, target in zip(images, targets, strict=True))


def measured(images: Tensor) -> Normalization:
    pixels = images.numpy().reshape(-1, images.shape[-1]) / 255
    return Normalization(tuple(pixels.mean(0)), tuple(pixels.std(0)))


def assert_close(actual: Normalization | None, expected: Normalization) -> None:
    assert actual is not None
    assert actual.mean == pytest.approx(expected.mean, abs=1e-6)
    assert actual.std == pytest.approx(expected.std, abs=1e-6)


def error_of(config: DataConfig, **options: Any) -> str:
    """Return the message of the DataError that loading raises: one line."""
    with pytest.raises(DataError) as caught:
        load_data(config, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- digits ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataConfig(name="digits"))


def test_digits_are_enlarged(digits: Data) -> None:
    assert [len(split.targets) for split in (digits.train, digits.val, digits.test)] == [1293, 144, 360]
    assert {stored(split).dtype for split in (digits.train, digits.val, digits.test)} == {torch.uint8}
    assert digits.example.shape == (1, 1, 32, 32)
    assert digits.example.dtype == torch.float32
    assert digits.classes == tuple("0123456789")
    assert digits.config == DataConfig(name="digits")


def test_digits_are_split_alike_in_every_class(digits: Data) -> None:
    counts = torch.stack([split.targets.bincount() for split in (digits.train, digits.val, digits.test)])  # [3, 10]
    shares = counts.sum(1, keepdim=True) / counts.sum()
    assert (counts - shares * counts.sum(0)).abs().max() < 1.5  # rounded twice: the test split, then the rest


def test_digits_are_whole_in_their_splits() -> None:
    data = load_data(DataConfig(name="digits", image_size=8))  # as they come: nothing is resized
    original = load_digits()
    images = (original.images * (255 / 16)).astype(numpy.float32).round().astype(numpy.uint8)[..., None]
    assert samples(data.train, data.val, data.test) == labelled(images, original.target)


def test_the_seed_is_that_of_the_validation_split(digits: Data) -> None:
    same, other = load_data(DataConfig(name="digits")), load_data(DataConfig(name="digits", seed=1))
    for name in ("train", "val", "test"):
        assert torch.equal(stored(getattr(same, name)), stored(getattr(digits, name)))
    assert samples(other.val) != samples(digits.val)
    assert samples(other.train, other.val) == samples(digits.train, digits.val)
    assert torch.equal(stored(other.test), stored(digits.test))


def test_val_fraction_is_of_what_is_not_test() -> None:
    data = load_data(DataConfig(name="digits", val_fraction=0.5, image_size=8))
    assert [len(split.targets) for split in (data.train, data.val, data.test)] == [718, 719, 360]


def test_image_size_of_digits(digits: Data) -> None:
    data = load_data(DataConfig(name="digits", image_size=16))
    assert data.example.shape == (1, 1, 16, 16)
    assert torch.equal(data.test.targets, digits.test.targets)
    halved = stored(digits.test)[:, :, :, 0].float().unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4))
    difference = (halved - stored(data.test)[..., 0]).abs()
    assert difference.mean() < 8  # of 255: the same pictures


def test_digits_are_normalised_by_their_train_split(digits: Data) -> None:
    assert_close(digits.normalization, measured(stored(digits.train)))
    inputs = torch.cat([inputs for inputs, _ in digits.train.batches(500)])
    assert inputs.mean().abs() < 1e-4
    assert (inputs.std(correction=0) - 1).abs() < 1e-4


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        ("auto", Augmentation(crop=2, flip=False)),  # a mirrored digit is not a digit
        ("none", Augmentation()),
        ("crop", Augmentation(crop=2, flip=False)),
        ("crop-flip", Augmentation(crop=2, flip=True)),
    ],
)
def test_augmentation_is_of_train_only(augment: str, expected: Augmentation) -> None:
    data = load_data(DataConfig(name="digits", augment=augment))
    assert isinstance(data.train, TensorSplit)
    assert data.train.augmentation == expected
    for split in (data.val, data.test):
        assert isinstance(split, TensorSplit)
        assert split.augmentation == Augmentation()


@pytest.mark.parametrize(("size", "shift", "pixels"), [(32, 0.125, 4), (32, 0.5, 16), (8, 0.01, 1)])
def test_a_shift_is_a_share_of_the_side(size: int, shift: float, pixels: int) -> None:
    data = load_data(DataConfig(name="digits", image_size=size, shift=shift))
    assert isinstance(data.train, TensorSplit)
    assert data.train.augmentation.crop == pixels


# --- torchvision's data sets, on files made here ---------------------------------------------------------------------


def numbered(count: int, classes: int) -> list[int]:
    return [index % classes for index in range(count)]


def random_pixels(*shape: int, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 256, shape, dtype=numpy.uint8)


def idx(values: numpy.ndarray) -> bytes:
    return struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def fashion_files() -> tuple[dict[str, bytes], numpy.ndarray, numpy.ndarray]:
    """Make the four files, by name, of 40 train and 20 test images."""
    train, test = random_pixels(40, 28, 28), random_pixels(20, 28, 28, seed=1)
    files = {
        "train-images-idx3-ubyte": idx(train),
        "train-labels-idx1-ubyte": idx(numpy.array(numbered(40, 10), numpy.uint8)),
        "t10k-images-idx3-ubyte": idx(test),
        "t10k-labels-idx1-ubyte": idx(numpy.array(numbered(20, 10), numpy.uint8)),
    }
    return files, train, test


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("compressed", [False, True])
def test_fashion_mnist(compressed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, train, test = fashion_files()
    if compressed:  # torchvision unpacks these in place of a download, once their sums are right
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
        resources = [(name, md5(content)) for name, content in files.items()]
        monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    write_files(tmp_path / "FashionMNIST" / "raw", files)
    config = DataConfig(name="fashion-mnist", data_dir=str(tmp_path), val_fraction=0.25)
    data = load_data(config, download=compressed)
    assert data.example.shape == (1, 1, 28, 28)
    assert data.classes[:2] == ("T-shirt/top", "Trouser")
    assert len(data.classes) == 10
    assert data.val.targets.bincount().tolist() == [1] * 10
    assert samples(data.train, data.val) == labelled(train, numbered(40, 10))
    assert numpy.array_equal(stored(data.test)[..., 0], test)
    assert data.test.targets.tolist() == numbered(20, 10)
    assert_close(data.normalization, measured(stored(data.train)))
    assert isinstance(data.train, TensorSplit)
    assert data.train.augmentation == Augmentation(crop=2, flip=True)


CIFAR: dict[str, Any] = {
    "cifar10": (datasets.CIFAR10, "labels", "label_names", ["plane", "car", "bird", "cat"]),
    "cifar100": (datasets.CIFAR100, "fine_labels", "fine_label_names", ["apple", "bee", "can", "dog"]),
}


def make_cifar(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Files as torchvision knows them: 8 images each, in rows of all red, all green, all blue."""
    dataset, labels, names, classes = CIFAR[name]
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)

    def write(file: str, content: Any) -> str:
        pickled = pickle.dumps(content)
        (folder / file).write_bytes(pickled)
        return md5(pickled)

    images, sums = [], {}
    for seed, (file, _) in enumerate(dataset.train_list + dataset.test_list):
        images.append(random_pixels(8, 3, 32, 32, seed=seed))
        sums[file] = write(file, {"data": images[-1].reshape(8, -1), labels: numbered(8, 4)})
    meta = {**dataset.meta, "md5": write(dataset.meta["filename"], {names: classes})}
    for attribute in ("train_list", "test_list"):
        listed = [[file, sums[file]] for file, _ in getattr(dataset, attribute)]
        monkeypatch.setattr(dataset, attribute, listed)
    monkeypatch.setattr(dataset, "meta", meta)
    return numpy.concatenate(images[:-1]).transpose(0, 2, 3, 1), images[-1].transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = make_cifar(name, tmp_path, monkeypatch)
    data = load_data(DataConfig(name=name, data_dir=str(tmp_path), val_fraction=0.5))
    assert data.example.shape == (1, 3, 32, 32)
    assert data.classes == tuple(CIFAR[name][3])
    assert samples(data.train, data.val) == labelled(train, numbered(len(train), 4))
    assert numpy.array_equal(stored(data.test), test)
    assert data.test.targets.tolist() == numbered(8, 4)
    assert data.val.targets.bincount().tolist() == [len(train) // 8] * 4
    assert_close(data.normalization, measured(stored(data.train)))


def test_cifar_in_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, test = make_cifar("cifar100", tmp_path, monkeypatch)
    data = load_data(DataConfig(name="cifar100", data_dir=str(tmp_path), val_fraction=0.5, image_size=64))
    assert data.example.shape == (1, 3, 64, 64)
    assert stored(data.test).dtype == torch.uint8
    means = stored(data.test).double().mean((1, 2)).numpy()
    assert numpy.abs(means - test.mean((1, 2))).max() < 2  # colours stay what and where they were


def test_data_that_has_moved_is_read_from_where_it_is_now(tmp_path: Path) -> None:
    write_files(tmp_path / "FashionMNIST" / "raw", fashion_files()[0])
    config = DataConfig(name="fashion-mnist", data_dir="/gone", val_fraction=0.25)
    assert len(load_data(relocated(config, tmp_path)).train.targets) == 30
    folder = relocated(DataConfig(name="/gone/images", data_dir="/gone"), tmp_path)
    assert (folder.name, folder.data_dir) == (str(tmp_path), "/gone")


def test_data_without_files_is_nowhere_else() -> None:
    with pytest.raises(ConfigError, match=r"digits comes with lctprune .* there; leave out `data_path`"):
        relocated(DataConfig(name="digits"), "there")


def test_other_pixels_and_labels_have_another_fingerprint(tmp_path: Path) -> None:
    files, *_ = fashion_files()
    changed = {name: content[:-1] + bytes([content[-1] ^ 1]) for name, content in files.items()}
    folders = [files, *({**files, name: changed[name]} for name in files), files]
    for number, each in enumerate(folders):
        write_files(tmp_path / str(number) / "FashionMNIST" / "raw", each)
    configs = [DataConfig(name="fashion-mnist", data_dir=str(tmp_path / str(n)), val_fraction=0.25) for n in range(6)]
    fingerprints = [load_data(config).fingerprint for config in configs]
    assert len(set(fingerprints)) == 5
    assert fingerprints[0] == fingerprints[5]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_a_missing_data_set_names_the_remedy(name: str, tmp_path: Path) -> None:
    message = error_of(DataConfig(name=name, data_dir=str(tmp_path)))
    assert message.startswith(name)
    assert str(tmp_path) in message
    assert "`download=True`" in message
    assert "`data_dir`" in message


def test_a_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:1/"])  # nobody listens there
    message = error_of(DataConfig(name="fashion-mnist", data_dir=str(tmp_path)), download=True)
    assert "127.0.0.1" in message
    assert "check the connection" in message


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_changed_pickle_is_never_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cifar(name, tmp_path, monkeypatch)
    marker = tmp_path / "unpickled"
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists()  # the trap works
    marker.unlink()
    folder = tmp_path / CIFAR[name][0].base_folder
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        file.write_bytes(pickle.dumps(Trap(marker)))
        assert "`download=True`" in error_of(DataConfig(name=name, data_dir=str(tmp_path)))
        assert not marker.exists()
        file.write_bytes(content)
    assert load_data(DataConfig(name=name, data_dir=str(tmp_path), val_fraction=0.5)).classes


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:6],
        lambda content: b"\0\0\0\1" + content[4:],  # no such type
        lambda content: b"\0\0\x0a" + content[3:],  # nor this one
        lambda content: b"\0\0\x09" + content[3:],  # signed bytes
        lambda content: b"\0\0\x08\2" + content[4:],  # two dimensions
    ],
)
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_corrupt_idx_files_are_refused(file: str, damage: Any, tmp_path: Path) -> None:
    files, _, _ = fashion_files()
    write_files(tmp_path / "FashionMNIST" / "raw", {**files, file: damage(files[file])})
    message = error_of(DataConfig(name="fashion-mnist", data_dir=str(tmp_path), val_fraction=0.25))
    assert message.startswith("fashion-mnist")
    assert "corrupt" in message


# --- image folders ---------------------------------------------------------------------------------------------------


def make_images(folder: Path, count: int, *, size: tuple[int, int] = (12, 12), seed: int = 0) -> list[Path]:
    """`count` PNG files of random pixels, size (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.png" for index in range(count)]
    for path, pixels in zip(paths, random_pixels(count, size[1], size[0], 3, seed=seed), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def make_classes(
    folder: Path, count: int = 10, *, size: tuple[int, int] = (12, 12), classes: str = "ba", seed: int = 0
) -> None:
    for index, name in enumerate(classes):
        make_images(folder / name, count, size=size, seed=100 * seed + index)


def pixels_of(folder: Path) -> Counter[tuple[bytes, int]]:
    """Count what samples() should find for two classes a and b of images that need no resizing."""
    return Counter(
        (numpy.array(Image.open(path)).tobytes(), label)
        for label, name in enumerate("ab")
        for path in (folder / name).glob("[0-9]*.png")
    )


def folder_config(root: Path, **options: Any) -> DataConfig:
    return DataConfig(name=str(root), **{"val_fraction": 0.2, **options})


def test_folder_with_train_and_test(tmp_path: Path) -> None:
    make_classes(tmp_path / "train")
    make_classes(tmp_path / "test", 3, seed=1)
    data = load_data(folder_config(tmp_path))
    assert data.classes == ("a", "b")
    assert data.example.shape == (1, 3, 12, 12)
    assert data.train.targets.bincount().tolist() == [8, 8]
    assert data.val.targets.bincount().tolist() == [2, 2]
    assert data.test.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert samples(data.train, data.val) == pixels_of(tmp_path / "train")
    assert samples(data.test) == pixels_of(tmp_path / "test")
    assert {stored(split).dtype for split in (data.train, data.val, data.test)} == {torch.uint8}
    other = load_data(folder_config(tmp_path, seed=1))
    assert samples(other.val) != samples(data.val)
    assert samples(load_data(folder_config(tmp_path)).val) == samples(data.val)


def test_folder_with_train_and_val_tests_on_val(tmp_path: Path) -> None:
    make_classes(tmp_path / "train")
    make_classes(tmp_path / "val", 3, seed=1)
    data = load_data(folder_config(tmp_path))
    assert samples(data.train, data.val) == pixels_of(tmp_path / "train")
    assert data.val.targets.bincount().tolist() == [2, 2]
    assert samples(data.test) == pixels_of(tmp_path / "val")


def test_folder_with_all_three_keeps_train_whole(tmp_path: Path) -> None:
    for seed, (name, count) in enumerate({"train": 10, "val": 4, "test": 3}.items()):
        make_classes(tmp_path / name, count, seed=seed)
    data = load_data(folder_config(tmp_path))
    for name in ("train", "val", "test"):
        assert samples(getattr(data, name)) == pixels_of(tmp_path / name)
    make_classes(tmp_path / "train", 1)  # one image a class cannot be split, and need not be
    assert len(load_data(folder_config(tmp_path)).val.targets) == 8


@pytest.mark.parametrize("size", [(24, 16), (16, 24), (16, 16), (8, 8), (8, 12)])
def test_images_are_resized_by_the_shorter_side_and_cropped_in_the_middle(
    size: tuple[int, int], tmp_path: Path
) -> None:
    make_classes(tmp_path / "train", size=(9, 11))
    make_classes(tmp_path / "test", 2, size=size)
    data = load_data(folder_config(tmp_path, image_size=8))
    width, height = (length * 8 // min(size) for length in size)
    image = Image.open(tmp_path / "test" / "a" / "0.png").resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - 8) // 2, (height - 8) // 2
    expected = numpy.array(image)[top : top + 8, left : left + 8]
    assert numpy.array_equal(stored(data.test)[0], expected)


@pytest.mark.parametrize(
    ("size", "natural", "kind"),
    [
        ((17, 14), 14, TensorSplit),
        ((96, 99), 96, TensorSplit),
        ((127, 127), 96, TensorSplit),
        ((128, 129), 128, FolderSplit),
    ],
)
def test_natural_size(size: tuple[int, int], natural: int, kind: type, tmp_path: Path) -> None:
    make_classes(tmp_path / "train", 5, size=size)
    make_classes(tmp_path / "test", 1, size=(10, 10))
    data = load_data(folder_config(tmp_path))
    assert isinstance(data.train, kind)
    assert isinstance(data.test, kind)
    assert data.example.shape == (1, 3, natural, natural)


def test_large_images_in_a_small_size_live_in_memory(tmp_path: Path) -> None:
    make_classes(tmp_path / "train", 5, size=(120, 100))
    make_classes(tmp_path / "test", 1, size=(120, 100))
    data = load_data(folder_config(tmp_path, image_size=32))
    assert stored(data.train).shape == (8, 32, 32, 3)


def test_hidden_files_and_folders_are_ignored(tmp_path: Path) -> None:
    for name in ("train", "test"):
        make_classes(tmp_path / name, 5)
        make_images(tmp_path / name / ".checkpoints", 2, seed=8)
        make_images(tmp_path / name / "a" / ".checkpoints", 2, seed=9)
        for file in (
            tmp_path / name / ".DS_Store",
            tmp_path / name / "a" / ".DS_Store",
            tmp_path / name / "b" / "._0.png",
        ):
            file.write_bytes(b"not an image")
    (tmp_path / ".git").mkdir()
    data = load_data(folder_config(tmp_path))
    assert data.classes == ("a", "b")
    assert samples(data.train, data.val) == pixels_of(tmp_path / "train")
    assert samples(data.test) == pixels_of(tmp_path / "test")


def test_a_hidden_folder_above_the_data_hides_nothing(tmp_path: Path) -> None:
    make_classes(tmp_path / ".cache" / "train", 5)
    make_classes(tmp_path / ".cache" / "test", 1)
    assert len(load_data(folder_config(tmp_path / ".cache")).train.targets) == 8


def test_images_in_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    make_classes(tmp_path / "train", 5)
    make_classes(tmp_path / "test", 1)
    make_images(tmp_path / "test" / "b" / "monday", 2, seed=7)
    assert load_data(folder_config(tmp_path)).test.targets.tolist() == [0, 1, 1, 1]


def test_folders_are_normalised_by_their_train_split_alone(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "val", "test")):
        make_classes(tmp_path / name, 4, seed=seed)
    data = load_data(folder_config(tmp_path))
    assert_close(data.normalization, measured(stored(data.train)))
    for name in ("val", "test"):
        Image.new("RGB", (12, 12), "white").save(tmp_path / name / "a" / "0.png")
    changed = load_data(folder_config(tmp_path))
    assert stored(changed.val)[0].min() == 255
    assert changed.normalization == data.normalization
    Image.new("RGB", (12, 12), "white").save(tmp_path / "train" / "a" / "0.png")
    assert load_data(folder_config(tmp_path)).normalization != data.normalization


def test_the_validation_images_cut_from_train_do_not_count_for_normalisation(tmp_path: Path) -> None:
    make_classes(tmp_path / "train", 5)
    make_classes(tmp_path / "test", 1)
    data = load_data(folder_config(tmp_path))
    assert_close(data.normalization, measured(stored(data.train)))


@pytest.mark.parametrize("size", [12, 112])
def test_a_given_normalization_is_used(size: int, tmp_path: Path) -> None:
    make_classes(tmp_path / "train", 5)
    make_classes(tmp_path / "test", 1)
    Image.new("RGB", (12, 12), (51, 102, 255)).save(tmp_path / "test" / "a" / "0.png")
    given = Normalization((0.1, 0.2, 0.5), (0.5, 0.1, 0.25))
    data = load_data(folder_config(tmp_path, image_size=size), normalization=given)
    assert data.normalization == given
    inputs, _ = next(data.test.batches(1))
    expected = torch.tensor([0.2, 2.0, 2.0])[:, None, None].expand(3, size, size)
    torch.testing.assert_close(inputs[0], expected)


@pytest.mark.parametrize("size", [12, 112])
def test_files_of_the_test_split_are_read_when_it_is_asked_for(size: int, tmp_path: Path) -> None:
    make_classes(tmp_path / "train", 5)
    make_classes(tmp_path / "test", 2)
    corrupt = tmp_path / "test" / "b" / "1.png"
    corrupt.write_bytes(corrupt.read_bytes()[:50])
    data = load_data(folder_config(tmp_path, image_size=size))
    assert data.test.targets.tolist() == [0, 0, 1, 1]
    for inputs, _ in (next(data.train.shuffled(4, seed=0)), next(data.val.batches(4))):
        assert inputs.isfinite().all()
    with pytest.raises(DataError) as caught:
        list(data.test.batches(4))
    assert str(corrupt) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = error_of(DataConfig(name="didgits"))
    for part in ("'didgits'", "digits", "cifar10", "cifar100", "fashion-mnist", "folder"):
        assert part in message


@pytest.mark.parametrize("present", [(), ("train",), ("test",), ("val", "test")])
def test_missing_folders(present: tuple[str, ...], tmp_path: Path) -> None:
    for name in present:
        make_classes(tmp_path / name, 5)
    message = error_of(folder_config(tmp_path))
    assert message.startswith(str(tmp_path))
    assert "train/ and test/" in message


@pytest.mark.parametrize("classes", ["", "a"])
def test_too_few_classes(classes: str, tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        make_classes(tmp_path / name, 5, classes=classes)
    message = error_of(folder_config(tmp_path))
    assert message.startswith(f"{tmp_path / 'train'} needs one folder of images per class, at least 2")
    assert message.endswith(f"it holds {classes or 'none'}")


@pytest.mark.parametrize(
    ("empty", "named"), [("train/a train/b", "train"), ("train/b", "train/b"), ("test/a test/b", "test")]
)
def test_empty_folders(empty: str, named: str, tmp_path: Path) -> None:
    for name in ("train", "test"):
        make_classes(tmp_path / name, 5)
    for folder in empty.split():
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    message = error_of(folder_config(tmp_path))
    assert f"{tmp_path / named} holds no images; " in message


@pytest.mark.parametrize("folder", ["train", "test"])
def test_a_text_file_among_the_images_is_left_out_with_a_note(folder: str, tmp_path: Path) -> None:
    for name in ("train", "test"):
        make_classes(tmp_path / name, 5)
    path = tmp_path / folder / "b" / "notes.txt"
    path.write_text("not an image")
    with pytest.warns(DataWarning, match=r"1 \.txt") as caught:
        data = load_data(folder_config(tmp_path))
    assert str(path) in str(caught[0].message)
    assert samples(data.train, data.val) == pixels_of(tmp_path / "train")
    assert samples(data.test) == pixels_of(tmp_path / "test")


@pytest.mark.parametrize("name", ["0.png", "7.jpg"])  # the one that tells the natural size, and another
def test_a_text_file_with_the_name_of_an_image(name: str, tmp_path: Path) -> None:
    for folder in ("train", "test"):
        make_classes(tmp_path / folder, 5)
    make_classes(tmp_path / "val", 1)
    path = tmp_path / "train" / "a" / name
    path.write_text("not an image")
    message = error_of(folder_config(tmp_path))
    assert f"{path} cannot be read as an image" in message
    assert "repair it" in message


@pytest.mark.parametrize("folder", ["val", "test"])
def test_a_class_that_train_does_not_have(folder: str, tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        make_classes(tmp_path / name, 2, classes="abc" if name == folder else "ab")
    message = error_of(folder_config(tmp_path))
    assert f"{tmp_path / folder / 'c'} is a class that train/ does not have" in message


def test_too_few_images_to_split(tmp_path: Path) -> None:
    make_images(tmp_path / "train" / "a", 1)
    make_images(tmp_path / "train" / "b", 1)
    make_classes(tmp_path / "test", 1)
    message = error_of(folder_config(tmp_path))
    for part in ("2 samples of 2 classes", "smallest has 1", "20%", "val/"):
        assert part in message


def test_the_only_image_of_a_class_is_trained_on(tmp_path: Path) -> None:
    make_images(tmp_path / "train" / "a", 9)
    make_images(tmp_path / "train" / "b", 1)
    make_classes(tmp_path / "test", 1)
    data = load_data(folder_config(tmp_path))
    assert [split.targets.tolist().count(1) for split in (data.train, data.val)] == [1, 0]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"image_size": 4}, ["4", "at least 8"]),
        ({"val_fraction": 0.0}, ["0.0", "between 0 and 1"]),
        ({"val_fraction": 1.0}, ["1.0", "between 0 and 1"]),
        ({"val_fraction": float("nan")}, ["nan", "between 0 and 1"]),
        ({"augment": "x"}, ["'x'", "auto, none, crop, crop-flip"]),
        ({"seed": -1}, ["data seed is -1", "between 0 and"]),
        ({"shift": 0}, ["shift is 0", "greater than 0 and at most 0.5"]),
        ({"shift": 0.51}, ["shift is 0.51"]),
        ({"shift": float("nan")}, ["shift is nan"]),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        DataConfig(**options)
    assert "\n" not in str(caught.value)
    for part in [next(iter(options)).replace("image_size", "image size"), *parts]:
        assert part in str(caught.value)


def test_a_name_that_is_nearly_that_of_a_folder_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert error_of(DataConfig(name=str(tmp_path / "photo"))).endswith(f"; did you mean {tmp_path / 'photos'}?")
    for name in ("elsewhere", "photo/cat", "x\0/photo"):
        assert "did you mean" not in error_of(DataConfig(name=str(tmp_path / name)))


def test_settings_may_be_given_beside_the_name(image_folder: Path) -> None:
    whole = load_data(DataConfig(name=str(image_folder), image_size=12, val_fraction=0.2))
    for config in (image_folder, DataConfig(name=str(image_folder), val_fraction=0.5)):
        data = load_data(config, image_size=12, val_fraction=0.2)
        assert data.config == whole.config
        assert data.example.shape[-1] == 12
    with pytest.raises(ConfigError, match=r"no setting imagesize; settings of data are data_dir,.* image_size"):
        load_data(image_folder, imagesize=12)
