"""Images in files as a data set: a folder of splits or of classes, or files that a CSV file lists with their labels.

Small images live in memory as one uint8 tensor per split, and those of the test split are not read before a batch of it
is asked for; larger ones are streamed.
"""

from __future__ import annotations

import functools
from pathlib import Path

from lctprune.config.data import DataConfig
from lctprune.data.dataset import Data
from lctprune.data.image_files import FolderSplit, decode_images, streamed_resize
from lctprune.data.image_labels import list_table
from lctprune.data.image_layout import list_folder
from lctprune.data.image_listing import ImageListing
from lctprune.data.preprocessing import Normalization, augmentation_of
from lctprune.data.splits import Split
from lctprune.data.tensor_split import TensorSplit

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL_IMAGE = 96  # images up to this side are held in memory
IN_MEMORY_BYTES = 4 * 2**30  # unless they take more than this


def image_data(config: DataConfig, normalization: Normalization | None = None) -> Data:
    """Load images from a folder, or those that a CSV file lists; splits that are missing are drawn, balanced by class.

    Args:
        config: path of the folder or file, size of images, augmentation and validation split.
        normalization: mean and deviation of the channels; by default those of the train split, or ImageNet's for
            images that are streamed.

    Raises:
        DataError: a folder or its images are missing, an image cannot be read, or a class is too small or unknown.
    """
    listing = list_table(config) if config.is_table else list_folder(config)
    return _from_files(config, listing, normalization)


def _from_files(
    config: DataConfig,
    listing: ImageListing,
    normalization: Normalization | None,
) -> Data:
    """Hold small images in memory, reading each split when it is needed; stream larger ones."""
    train_files, val_files, test_files = listing.train, listing.val, listing.test
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
        classes=listing.classes,
        normalization=normalization,
        resize=resize,
        fingerprint=listing.fingerprint,
        config=config,
    )


def _natural_size(path: Path) -> int:
    """Return the shorter side of a small image; 224 for a large one."""
    _, height, width, _ = decode_images([path]).shape
    return min(height, width) if min(height, width) <= SMALL_IMAGE else 224
