"""Load a data set by its name, and images in particular: how their pixels become a network's input.

The validation split is cut from train, balanced by class, by a seed. Image files of the test split are not read before
a batch of it is asked for. Small images live in memory as one uint8 tensor.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lctprune.config.data import DataConfig
from lctprune.data.builtin import EMBEDDED, TORCHVISION, RawData, digit_rows, digits, torchvision_data
from lctprune.data.dataset import Data, augmentation_of
from lctprune.data.image_folder import load_image_folder
from lctprune.data.splits import Normalization, TensorSplit, stratified
from lctprune.data.tables import table_data
from lctprune.errors import ConfigError


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
    return load_image_folder(config, normalization)


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


def _in_memory(config: DataConfig, raw: RawData, normalization: Normalization | None) -> Data:
    images, targets = raw.train
    train, val = stratified(targets, config.val_fraction, config.seed)
    normalization = normalization or Normalization.of(images[train])
    augmentation = augmentation_of(config, images.shape[1])
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
