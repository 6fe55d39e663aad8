"""An image folder, one folder per class, as a data set."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.data.builtin import NAMED
from lctprune.data.dataset import Data, augmentation_of
from lctprune.data.image_files import FolderSplit, class_names, decode_images, labelled_images, streamed_resize
from lctprune.data.sentences import text_data
from lctprune.data.splits import Normalization, Split, TensorSplit, stratified
from lctprune.errors import DataError

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


SMALL_IMAGE = 96  # images up to this side are held in memory
IN_MEMORY_BYTES = 4 * 2**30
_Files = tuple[list[Path], Tensor]  # paths and labels


def load_image_folder(config: DataConfig, normalization: Normalization | None) -> Data:
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
    augmentation = augmentation_of(config, size)
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
