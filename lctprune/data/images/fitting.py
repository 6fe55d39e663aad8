"""Make squares of decoded images: resized, cropped or padded for evaluation; cropped and mirrored at random."""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lctprune.config.images import WHITE, ImagePreprocessing
from lctprune.data.preprocessing import Augmentation, randaugment, shift_and_flip

LEAST_AREA = 0.35  # part of an image that a random crop shows
MOST_RATIO = 4 / 3  # of its sides
ATTEMPTS = 10


def fitted(image: Tensor, preprocessing: ImagePreprocessing) -> Tensor:
    """Resize an image to a square, and crop or pad it, as the preprocessing says.

    Args:
        image: uint8 [height, width, 3].
        preprocessing: steps to take.

    Returns:
        uint8 [size, size, 3].
    """
    height, width, _ = image.shape
    size, shorter = preprocessing.size, preprocessing.shorter_side
    if preprocessing.resize == "squeeze":
        return resized(image, size, size)
    if preprocessing.resize == "crop":
        least = min(height, width)
        image = resized(image, int(shorter * height / least), int(shorter * width / least))
        top, left = (round((side - size) / 2.0) for side in image.shape[:2])
        return image[top : top + size, left : left + size]
    scale = size / max(height, width)
    height, width = (max(1, round(side * scale)) for side in (height, width))
    canvas = torch.tensor(preprocessing.background or WHITE, dtype=torch.uint8).repeat(size, size, 1)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = resized(image, height, width)
    return canvas


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 [height, width, channels] by bilinear interpolation; each pixel is Pillow's, or one beside it."""
    if image.shape[:2] == (height, width):
        return image
    batch = image.permute(2, 0, 1)[None]
    return functional.interpolate(batch, (height, width), mode="bilinear", antialias=True)[0].permute(1, 2, 0)


class RandomChanges(NamedTuple):
    """Random changes of the images that training reads from files.

    Attributes:
        preprocessing: steps to a square.
        augmentation: changes; large images that are cropped show a random part instead of shifts.
    """

    preprocessing: ImagePreprocessing
    augmentation: Augmentation

    def apply(self, image: Tensor, seed: int) -> Tensor:
        """Make a square of an image, uint8 [height, width, 3], changed by `seed` alone: [size, size, 3]."""
        square = self._square(image, seed)
        magnitude = self.augmentation.magnitude
        return randaugment(square, magnitude, seed) if magnitude else square

    def _square(self, image: Tensor, seed: int) -> Tensor:
        draw, size, most = Random(seed), self.preprocessing.size, self.augmentation.crop
        mirrored = self.augmentation.flip and draw.random() < 0.5
        if most and self.preprocessing.resize == "crop":
            top, left, height, width = random_part(image.shape[0], image.shape[1], draw)
            image = resized(image[top : top + height, left : left + width], size, size)
            return image.flip(1) if mirrored else image
        shifts = [draw.randint(-most, most) for _ in range(2)]
        draws = torch.tensor([0, mirrored, *shifts])[:, None]
        return shift_and_flip(fitted(image, self.preprocessing)[None], draws)[0]


def random_part(height: int, width: int, draw: Random) -> tuple[int, int, int, int]:
    """Draw a part of an image: at least `LEAST_AREA` of it, with sides in a ratio of at most `MOST_RATIO`.

    Szegedy et al. 2015, arXiv 1409.4842, as torchvision's `RandomResizedCrop` draws it: an image of extreme sides that
    no draw fits shows its centre.

    Returns:
        First row and column, height and width.
    """
    for _ in range(ATTEMPTS):
        area = height * width * draw.uniform(LEAST_AREA, 1)
        ratio = math.exp(draw.uniform(-math.log(MOST_RATIO), math.log(MOST_RATIO)))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            return draw.randint(0, height - down), draw.randint(0, width - across), down, across
    down, across = min(height, round(width * MOST_RATIO)), min(width, round(height * MOST_RATIO))
    return (height - down) // 2, (width - across) // 2, down, across
