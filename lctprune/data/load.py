"""Load a data set by its name, and images in particular: how their pixels become a network's input.

The validation split is cut from train, balanced by class, by a seed. Image files of the test split are not read before
a batch of it is asked for. Small images live in memory as one uint8 tensor.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lctprune.data.builtin import TORCHVISION, RawData, digits, stratified, torchvision_data
from lctprune.data.dataset import Data, DataConfig
from lctprune.data.image_files import FolderSplit, class_names, decode_images, labelled_images, streamed_resize
from lctprune.data.sentences import digit_rows, text_data
from lctprune.data.splits import Augmentation, Normalization, Split, TensorSplit
from lctprune.data.tables import table_data
from lctprune.errors import ConfigError, DataError

SMALL_IMAGE = 96  # images up to this side are held in memory
IN_MEMORY_BYTES = 4 * 2**30
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EMBEDDED = ("digits", "digits-rows")
NAMED = (*EMBEDDED, *TORCHVISION)  # all other names are paths
NO_FLIP = {"digits"}  # a mirrored digit is not a digit


def load_data(
    config: DataConfig,
    *,
    normalization: Normalization | None = None,
    target_normalization: Normalization | None = None,
    download: bool = False,
) -> Data:
    """Load a data set by name, or from a folder of images.

    Args:
        config: which.
        normalization: of the pixels, or of a table's columns; by default mean and deviation of each over the train
            split.
        target_normalization: of the target of a regression; by default the same.
        download: whether torchvision's data sets may be downloaded.

    Raises:
        DataError: the data is missing, malformed or too small.
    """
    if config.is_table:
        return table_data(config, normalization, target_normalization)
    if config.name == "digits":
        return _in_memory(config, digits(config.image_size or 32), normalization)
    if config.name == "digits-rows":
        return digit_rows(config)
    if config.name in TORCHVISION:
        return _in_memory(
            config,
            torchvision_data(config.name, config.data_dir, image_size=config.image_size, download=download),
            normalization,
        )
    return _image_folder(config, normalization)


def location(config: DataConfig) -> Path | None:
    """Where the data's files are; None for data that lctprune brings along."""
    if config.name in EMBEDDED:
        return None
    return Path(config.data_dir if config.name in TORCHVISION else config.name)


def relocated(config: DataConfig, place: str | Path) -> DataConfig:
    """The same data, whose files are elsewhere now.

    Raises:
        ConfigError: it has no files.
    """
    if config.name in EMBEDDED:
        raise ConfigError(f"{config.name} comes with lctprune, so nothing is to be read from {place}; leave out --data")
    place = Path(place).absolute()
    if config.name in TORCHVISION:
        return dataclasses.replace(config, data_dir=str(place))
    return dataclasses.replace(config, name=str(place))


_Files = tuple[list[Path], Tensor]  # paths and labels


def _in_memory(config: DataConfig, raw: RawData, normalization: Normalization | None) -> Data:
    images, targets = raw.train
    train, val = stratified(targets, config.val_fraction, config.seed)
    normalization = normalization or Normalization.of(images[train])
    augmentation = _augmentation(config, images.shape[1])
    return Data(
        train=TensorSplit(images[train], targets[train], normalization, augmentation),
        val=TensorSplit(images[val], targets[val], normalization),
        test=TensorSplit(*raw.test, normalization),
        classes=raw.classes,
        normalization=normalization,
        resize=images.shape[1],
        fingerprint=raw.fingerprint,
        config=config,
    )


def _image_folder(config: DataConfig, normalization: Normalization | None) -> Data:
    root = Path(config.name)
    if not root.is_dir():
        known = ", ".join(NAMED)
        raise DataError(f"data {config.name!r} is neither a folder, a table (.csv), nor a known data set ({known})")
    if (root / "train.tsv").is_file():
        return text_data(config)
    folders = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if "train" not in folders or len(folders) < 2:
        raise DataError(
            f"{root} needs the folders train/ and test/ (or val/), each with one folder of images per class; "
            "or the files train.tsv and test.tsv, with lines sentence<TAB>label"
        )
    classes = class_names(folders["train"])
    paths, targets = labelled_images(folders["train"], classes)
    for name, count in zip(classes, targets.bincount(minlength=len(classes)), strict=True):
        if count == 0:
            raise DataError(f"{folders['train'] / name} holds no images; add some or remove the folder")
    if "val" in folders and "test" in folders:
        train_files, val_files = (paths, targets), labelled_images(folders["val"], classes)
    else:
        train, val = stratified(targets, config.val_fraction, config.seed)
        train_files, val_files = _subset(paths, targets, train), _subset(paths, targets, val)
    test_files = labelled_images(folders.get("test", folders.get("val", root)), classes)
    return _from_files(config, classes, train_files, val_files, test_files, normalization)


def _from_files(
    config: DataConfig,
    classes: tuple[str, ...],
    train_files: _Files,
    val_files: _Files,
    test_files: _Files,
    normalization: Normalization | None,
) -> Data:
    """Small images in memory, each split read when it is needed; larger ones streamed."""
    size = config.image_size or _natural_size(train_files[0][0])
    augmentation = _augmentation(config, size)
    if size > SMALL_IMAGE or len(train_files[0]) * 3 * size**2 > IN_MEMORY_BYTES:
        normalization = normalization or IMAGENET
        train: Split = FolderSplit(*train_files, normalization, augmentation, size=size)
        val: Split = FolderSplit(*val_files, normalization, size=size)
        test: Split = FolderSplit(*test_files, normalization, size=size)
        resize = streamed_resize(size)
    else:
        read_train, read_val, read_test = (
            functools.cache(functools.partial(decode_images, paths, size))
            for paths, _ in (train_files, val_files, test_files)
        )
        normalization = normalization or Normalization.of(read_train())
        train = TensorSplit(read_train, train_files[1], normalization, augmentation)
        val = TensorSplit(read_val, val_files[1], normalization)
        test = TensorSplit(read_test, test_files[1], normalization)
        resize = size
    return Data(
        train=train,
        val=val,
        test=test,
        classes=classes,
        normalization=normalization,
        resize=resize,
        fingerprint=_fingerprint([*train_files[0], *val_files[0], *test_files[0]], Path(config.name)),
        config=config,
    )


def _fingerprint(paths: Sequence[Path], root: Path) -> str:
    names = "\n".join(path.relative_to(root).as_posix() for path in paths)
    return hashlib.sha256(names.encode()).hexdigest()


def _subset(paths: Sequence[Path], targets: Tensor, indices: Tensor) -> tuple[list[Path], Tensor]:
    return [paths[index] for index in indices.tolist()], targets[indices]


def _natural_size(path: Path) -> int:
    """The shorter side of small images; 224 for large ones."""
    _, height, width, _ = decode_images([path]).shape
    return min(height, width) if min(height, width) <= SMALL_IMAGE else 224


def _augmentation(config: DataConfig, size: int) -> Augmentation:
    kind = config.augment
    if kind == "auto":
        kind = "crop" if config.name in NO_FLIP else "crop-flip"
    crop = max(1, round(size * config.shift))
    return Augmentation(crop=0 if kind == "none" else crop, flip=kind == "crop-flip")
