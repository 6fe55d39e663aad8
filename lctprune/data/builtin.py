"""Data sets as they come: the embedded digits, and those of torchvision; and cutting a held-out part from one."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy
import torch
from torch import Tensor
from torch.nn import functional
from torchvision import datasets

from lctprune.config.data import DataConfig
from lctprune.data.dataset import Data
from lctprune.data.splits import Normalization, TensorSplit, stratified
from lctprune.errors import DataError

DIGITS_TEST_FRACTION = 0.2
TORCHVISION = {
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
    "fashion-mnist": datasets.FashionMNIST,
}
EMBEDDED = ("digits", "digits-rows")
NAMED = (*EMBEDDED, *TORCHVISION)  # all other names are paths


class RawData(NamedTuple):
    """A data set before normalisation: uint8 images [n, height, width, channels] and labels [n].

    `fingerprint` is a hash of its pixels and labels; None for data that lctprune brings along.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    fingerprint: str | None = None


def digits(size: int) -> RawData:
    """scikit-learn's 1,797 handwritten digits, enlarged from 8x8; a fifth, always the same, is the test split."""
    from sklearn.datasets import load_digits  # slow to import, and needed for this data set only

    loaded = load_digits()
    images = torch.from_numpy(loaded.images * (255 / 16)).float()[:, None]  # [n, 1, 8, 8], 0..255
    images = _resized(images, size)
    targets = torch.from_numpy(loaded.target).long()
    train, test = stratified(targets, DIGITS_TEST_FRACTION, seed=0)
    classes = tuple(str(digit) for digit in loaded.target_names)
    return RawData((images[train], targets[train]), (images[test], targets[test]), classes)


def torchvision_data(name: str, folder: str, *, image_size: int | None, download: bool) -> RawData:
    """One of torchvision's data sets, from its files in `folder`, or downloaded to there.

    Raises:
        DataError: the files are missing or corrupt, or cannot be downloaded.
    """
    splits = []
    content = hashlib.sha256()
    for train in (True, False):
        try:
            split = TORCHVISION[name](folder, train=train, download=download)
        except (RuntimeError, OSError, AssertionError, LookupError, TypeError, ValueError) as error:
            # torchvision's words for missing, corrupt or not downloadable
            remedy = (
                "check the connection"
                if download
                else "pass --download, or where it is (--data-dir, or --data to a command on a run)"
            )
            reason = " ".join(str(error).split()) or "malformed"
            raise DataError(
                f"{name} in {folder!r} is missing or corrupt ({reason}); remove corrupt files, and {remedy}"
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
    """[n, channels, h, w], 0..255 -> uint8 [n, size, size, channels]"""
    resized = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def digit_rows(config: DataConfig) -> Data:
    """The embedded digits as sequences of 8 rows of 8 pixels."""
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
    )
