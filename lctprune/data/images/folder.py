"""Images in files as a data set: a folder of splits or of classes, or files that a CSV file lists with their labels.

Small images live in memory as one uint8 tensor per split, and those of the test split are not read before a batch of it
is asked for; larger ones are streamed.
"""

from __future__ import annotations

import functools

from lctprune.config.data import DataConfig
from lctprune.config.images import ImagePreprocessing
from lctprune.data.dataset import Data
from lctprune.data.images.files import FolderSplit, decode_images
from lctprune.data.images.fitting import RandomChanges
from lctprune.data.images.labels import list_table
from lctprune.data.images.layout import list_folder
from lctprune.data.images.listing import ImageListing
from lctprune.data.images.survey import chosen_preprocessing
from lctprune.data.images.workers import ImageReaders
from lctprune.data.preprocessing import Normalization, asked_normalization, augmentation_of
from lctprune.data.splits import Split
from lctprune.data.tensor_split import TensorSplit

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL_IMAGE = 96  # images up to this side are held in memory
IN_MEMORY_BYTES = 4 * 2**30  # unless they take more than this


def image_data(
    config: DataConfig,
    normalization: Normalization | None = None,
    preprocessing: ImagePreprocessing | None = None,
    *,
    most: int | None = None,
    listing: ImageListing | None = None,
) -> Data:
    """Load images from a folder, or those that a CSV file or a listing names; missing splits are drawn, by class.

    Args:
        config: path of the folder or file, size of images, augmentation and validation split.
        normalization: mean and deviation of the channels; by default those of the train split, or ImageNet's for
            images that are streamed.
        preprocessing: steps from a file to pixels; by default chosen by `config` and a sample of the training images.
        most: largest side that is chosen, in pixels; by default 224.
        listing: images, labels and splits; by default those of the folder or file.

    Raises:
        DataError: a folder or its images are missing, an image cannot be read, or a class is too small or unknown.
    """
    listing = listing or (list_table(config) if config.is_table else list_folder(config))
    preprocessing = preprocessing or chosen_preprocessing(*listing.train, listing.classes, config, most=most)
    return _from_files(config, listing, asked_normalization(config, 3) or normalization, preprocessing)


def _from_files(
    config: DataConfig,
    listing: ImageListing,
    normalization: Normalization | None,
    preprocessing: ImagePreprocessing,
) -> Data:
    """Hold small images in memory, reading each split when it is needed; stream larger ones."""
    train_files, val_files, test_files = listing.train, listing.val, listing.test
    size = preprocessing.size
    train: Split
    val: Split
    test: Split
    augmentation = augmentation_of(config, size)
    if size > SMALL_IMAGE or len(train_files[0]) * 3 * size**2 > IN_MEMORY_BYTES:
        normalization = normalization or IMAGENET
        readers = ImageReaders(RandomChanges(preprocessing, augmentation), config.workers)
        train, val, test = (
            FolderSplit(*files, normalization, preprocessing=preprocessing, readers=readers)
            for files in (train_files, val_files, test_files)
        )
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
        classes=listing.classes,
        normalization=normalization,
        preprocessing=preprocessing,
        fingerprint=listing.fingerprint,
        val_from_train=listing.val_from_train,
        config=config,
    )
