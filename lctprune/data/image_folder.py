"""A folder of images as a data set: train/ and test/ (or val/), with one folder per class.

Small images live in memory as one uint8 tensor per split, and those of the test split are not read before a batch of it
is asked for; larger ones are streamed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.config.images import ImagePreprocessing
from lctprune.data.dataset import Data
from lctprune.data.held_out import stratified
from lctprune.data.image_files import FolderSplit, class_names, decode_images, labelled_images
from lctprune.data.image_survey import chosen_preprocessing
from lctprune.data.preprocessing import Normalization, augmentation_of
from lctprune.data.splits import Split
from lctprune.data.tensor_split import TensorSplit
from lctprune.errors import DataError

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL_IMAGE = 96  # images up to this side are held in memory
IN_MEMORY_BYTES = 4 * 2**30  # unless they take more than this
_Files = tuple[list[Path], Tensor]  # paths and labels


def image_data(
    config: DataConfig, normalization: Normalization | None = None, preprocessing: ImagePreprocessing | None = None
) -> Data:
    """Load a folder of images; without val/ beside test/, the validation split is cut from train/, balanced by class.

    Args:
        config: path of the folder, size of images, augmentation and validation split.
        normalization: mean and deviation of the channels; by default those of the train split, or ImageNet's for
            images that are streamed.
        preprocessing: steps from a file to pixels; by default chosen by `config` and a sample of the training images.

    Raises:
        DataError: a folder or its images are missing, an image cannot be read, or a class is too small or unknown.
    """
    root = Path(config.name)
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
    return _from_files(config, classes, train_files, val_files, test_files, normalization, preprocessing)


def _from_files(
    config: DataConfig,
    classes: tuple[str, ...],
    train_files: _Files,
    val_files: _Files,
    test_files: _Files,
    normalization: Normalization | None,
    preprocessing: ImagePreprocessing | None,
) -> Data:
    """Hold small images in memory, reading each split when it is needed; stream larger ones."""
    preprocessing = preprocessing or chosen_preprocessing(*train_files, classes, config)
    size = preprocessing.size
    augmentation = augmentation_of(config, size)
    if size > SMALL_IMAGE or len(train_files[0]) * 3 * size**2 > IN_MEMORY_BYTES:
        normalization = normalization or IMAGENET
        train: Split = FolderSplit(*train_files, normalization, augmentation, preprocessing=preprocessing)
        val: Split = FolderSplit(*val_files, normalization, preprocessing=preprocessing)
        test: Split = FolderSplit(*test_files, normalization, preprocessing=preprocessing)
    else:
        read_train, read_val, read_test = (
            functools.cache(functools.partial(decode_images, paths, preprocessing))
            for paths, _ in (train_files, val_files, test_files)
        )
        normalization = normalization or Normalization.of(read_train())
        train = TensorSplit(read_train, train_files[1], normalization, augmentation)
        val = TensorSplit(read_val, val_files[1], normalization)
        test = TensorSplit(read_test, test_files[1], normalization)
    return Data(
        train=train,
        val=val,
        test=test,
        classes=classes,
        normalization=normalization,
        preprocessing=preprocessing,
        fingerprint=_fingerprint([*train_files[0], *val_files[0], *test_files[0]], Path(config.name)),
        config=config,
    )


def _fingerprint(paths: Sequence[Path], root: Path) -> str:
    names = "\n".join(path.relative_to(root).as_posix() for path in paths)
    return hashlib.sha256(names.encode()).hexdigest()


def _subset(paths: Sequence[Path], targets: Tensor, indices: Tensor) -> tuple[list[Path], Tensor]:
    return [paths[index] for index in indices.tolist()], targets[indices]
