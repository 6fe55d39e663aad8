"""Built-in data, known by name: the embedded digits, as images or as sequences, and data sets of torchvision."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import NamedTuple

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from lctprune.config.data import DataConfig
from lctprune.config.images import ImagePreprocessing
from lctprune.data.cluttered_digits import HELD_OUT_PICTURES, SIZE, ClutteredSplit, digit_side
from lctprune.data.dataset import Data
from lctprune.data.held_out import stratified
from lctprune.data.preprocessing import Normalization, asked_normalization, augmentation_of
from lctprune.data.tensor_split import TensorSplit
from lctprune.errors import DataError

DIGITS_TEST_FRACTION = 0.2
TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion-mnist": "FashionMNIST"}  # classes of datasets
CLUTTERED = "digits-cluttered"
EMBEDDED = ("digits", "digits-rows", CLUTTERED)
NAMED = (*EMBEDDED, *TORCHVISION)  # all other names are paths


class RawData(NamedTuple):
    """A data set before normalisation: uint8 images [n, height, width, channels] and labels [n].

    `fingerprint` is a hash of its pixels and labels; None for data that comes with lctprune.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    fingerprint: str | None = None


def builtin_data(
    config: DataConfig,
    normalization: Normalization | None = None,
    preprocessing: ImagePreprocessing | None = None,
    *,
    download: bool = False,
) -> Data:
    """Load a data set of `NAMED`; images are held in memory as one uint8 tensor per split.

    Args:
        config: name, size of images, augmentation and validation split.
        normalization: mean and deviation of the pixels' channels; by default those of the train split.
        preprocessing: steps to take for files that are given to a network trained on this data.
        download: whether torchvision's data sets may be downloaded.

    Raises:
        DataError: the files are missing or corrupt, or cannot be downloaded, or are too few to be split.
    """
    if config.name == "digits-rows":
        return digit_rows(config)
    if config.name == CLUTTERED:
        return cluttered_digits(config, normalization, preprocessing)
    if config.name == "digits":
        raw = digits(config.image_size or 32)
    else:
        raw = torchvision_data(config.name, config.data_dir, image_size=config.image_size, download=download)
    images, targets = raw.train
    train, val = stratified(targets, config.val_fraction, config.seed)
    asked = asked_normalization(config, images.shape[3])
    normalization = asked or normalization or Normalization.of(images[train])
    augmentation = augmentation_of(config, images.shape[1])
    return Data(
        train=TensorSplit(images[train], targets[train], normalization, augmentation),
        val=TensorSplit(images[val], targets[val], normalization),
        test=TensorSplit(*raw.test, normalization),
        classes=raw.classes,
        normalization=normalization,
        preprocessing=preprocessing or ImagePreprocessing.of(images.shape[1], has_margin=False),
        fingerprint=raw.fingerprint,
        config=config,
        val_from_train=True,
    )


def dependence(config: DataConfig) -> str:
    """Say that held-out samples resemble each other, which no interval takes into account; "" for all other data."""
    if config.name != CLUTTERED:
        return ""
    return (
        f"intervals and tests take samples as independent, but {HELD_OUT_PICTURES} pictures show each digit: the "
        "intervals are somewhat too narrow"
    )


def digits(size: int) -> RawData:
    """Read scikit-learn's 1,797 handwritten digits, enlarged from 8x8; a fifth, always the same, is the test split."""
    from sklearn.datasets import load_digits  # slow to import, and needed for this data set only

    loaded = load_digits()
    images = torch.from_numpy(loaded.images * (255 / 16)).float()[:, None]  # [n, 1, 8, 8], 0..255
    images = _resized(images, size)
    targets = torch.from_numpy(loaded.target).long()
    train, test = stratified(targets, DIGITS_TEST_FRACTION, seed=0)
    classes = tuple(str(digit) for digit in loaded.target_names)
    return RawData((images[train], targets[train]), (images[test], targets[test]), classes)


def torchvision_data(name: str, folder: str, *, image_size: int | None, download: bool) -> RawData:
    """Read one of torchvision's data sets from its files in `folder`, to which it may be downloaded.

    Raises:
        DataError: the files are missing or corrupt, or cannot be downloaded.
    """
    from torchvision import datasets  # slow to import

    splits = []
    content = hashlib.sha256()
    for train in (True, False):
        try:
            split = getattr(datasets, TORCHVISION[name])(folder, train=train, download=download)
        except (RuntimeError, OSError, AssertionError, LookupError, TypeError, ValueError) as error:
            # what torchvision raises for files that are missing, corrupt or cannot be downloaded
            remedy = (
                "check the connection"
                if download
                else "pass `download=True`, or the folder that holds it (`data_dir`, or `data_path` of a run)"
            )
            reason = " ".join(str(error).split()) or "malformed"
            raise DataError(
                f"{name} in {folder!r} is missing or corrupt ({reason}); remove corrupt files and {remedy}"
            ) from error
        images = torch.as_tensor(numpy.asarray(split.data))
        targets = torch.as_tensor(split.targets).long()
        for tensor in (images, targets):
            content.update(tensor.contiguous().numpy().data)
        images = images if images.dim() == 4 else images[..., None]
        if image_size not in (None, images.shape[1]):
            images = _resized(images.permute(0, 3, 1, 2).float(), image_size)
        splits.append((images, targets))
    return RawData(splits[0], splits[1], tuple(split.classes), content.hexdigest())


def _resized(images: Tensor, size: int) -> Tensor:
    """Resize [n, channels, height, width] of 0..255 to uint8 [n, size, size, channels]."""
    resized = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def digit_rows(config: DataConfig) -> Data:
    """Load the embedded digits as sequences of 8 rows of 8 pixels."""
    raw = digits(8)
    images, targets = raw.train
    train, val = stratified(targets, config.val_fraction, config.seed)
    normalization = Normalization.of(images[train])
    return Data(
        train=TensorSplit(normalization.apply(images[train])[:, 0], targets[train]),
        val=TensorSplit(normalization.apply(images[val])[:, 0], targets[val]),
        test=TensorSplit(normalization.apply(raw.test[0])[:, 0], raw.test[1]),
        classes=raw.classes,
        normalization=normalization,
        config=config,
        val_from_train=True,
    )


def cluttered_digits(
    config: DataConfig,
    normalization: Normalization | None = None,
    preprocessing: ImagePreprocessing | None = None,
) -> Data:
    """Make the cluttered digits; `augment="none"` shows the same training pictures in every pass.

    Args:
        config: size of images, augmentation and validation split.
        normalization: mean and deviation of the pixels; by default those of the train split.
        preprocessing: steps to take for files that are given to a network trained on this data.
    """
    size = config.image_size or SIZE
    raw = digits(digit_side(size))
    images, targets = raw.train
    kept, held_out = stratified(targets, config.val_fraction, config.seed)
    shown_as_drawn = dataclasses.replace(config, augment="none") if config.augment == "auto" else config
    train = ClutteredSplit(
        images[kept],
        targets[kept],
        size=size,
        seed=1,
        normalization=normalization,
        augmentation=augmentation_of(shown_as_drawn, size),
        redrawn=config.augment != "none",
    )
    normalization = train.normalization

    def held_out_pictures(images: Tensor, targets: Tensor, *, seed: int) -> ClutteredSplit:
        images, targets = images.repeat(HELD_OUT_PICTURES, 1, 1, 1), targets.repeat(HELD_OUT_PICTURES)
        return ClutteredSplit(images, targets, size=size, seed=seed, normalization=normalization)

    return Data(
        train=train,
        val=held_out_pictures(images[held_out], targets[held_out], seed=2),
        test=held_out_pictures(*raw.test, seed=3),
        classes=raw.classes,
        normalization=normalization,
        preprocessing=preprocessing or ImagePreprocessing.of(size, has_margin=False),
        config=config,
    )
