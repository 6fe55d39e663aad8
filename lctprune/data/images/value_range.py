"""Recognise the range of the stored values of images with more than 8 bits."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from lctprune.config.images import ValueRange
from lctprune.data.images.decoding import Array
from lctprune.errors import DataWarning

WHITES = (1, 2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1)  # usual largest values; 1 of floating point alone
LEAST_USE = 0.25  # part of the range that typical images take up: 64 of the 256 levels
OUTLYING_PIXELS, OUTLYING_IMAGES = 0.001, 0.05  # that are not typical, on each side


@dataclass(frozen=True, kw_only=True)
class ImageValues:
    """Summary of the values that one image stores.

    Attributes:
        low: smallest value.
        high: largest value.
        typical_low: largest value below which no more than `OUTLYING_PIXELS` of the pixels are.
        typical_high: smallest value above which no more than that are.
        is_integer: whether values are whole numbers.
    """

    low: float
    high: float
    typical_low: float
    typical_high: float
    is_integer: bool

    @classmethod
    def of(cls, values: Array) -> ImageValues:
        """Summarise [height, width] or [height, width, channels]; alpha, the last of 2 or 4 channels, is left out."""
        colours = values[..., :-1] if values.ndim == 3 and values.shape[2] in (2, 4) else values
        count = int(OUTLYING_PIXELS * colours.size)
        ordered = numpy.partition(colours.ravel(), (count, colours.size - 1 - count))
        return cls(
            low=float(ordered[: count + 1].min()),
            high=float(ordered[colours.size - 1 - count :].max()),
            typical_low=float(ordered[count]),
            typical_high=float(ordered[colours.size - 1 - count]),
            is_integer=colours.dtype.kind != "f",
        )


def range_of(images: Sequence[ImageValues]) -> ValueRange:
    """Choose the range of a data set: what holds all values, unless typical images would then lose their contrast.

    It begins at 0 and ends at the smallest of `WHITES` that holds all values, if typical images take up `LEAST_USE` of
    it; next in question are the smallest that holds the typical values, all values from the smallest to the largest
    (the first, where some are negative or above 16 bits), and the typical values.

    Warns:
        DataWarning: some images have values outside the range.
    """
    is_integer = all(image.is_integer for image in images)
    low, high = min(image.low for image in images), max(image.high for image in images)
    typical_low = float(numpy.quantile([image.typical_low for image in images], OUTLYING_IMAGES, method="higher"))
    typical_high = float(numpy.quantile([image.typical_high for image in images], 1 - OUTLYING_IMAGES, method="lower"))
    ends = [
        *((0, white) for white in (_white(high, is_integer), _white(typical_high, is_integer)) if white and low >= 0),
        (low, high),
        (typical_low, typical_high),
    ]
    use = typical_high - typical_low
    chosen = next((each for each in ends if use >= LEAST_USE * (each[1] - each[0]) and each[0] < each[1]), ends[0])
    if chosen[0] == chosen[1]:  # nothing but one value
        chosen = (chosen[0], chosen[0] + 1)
    found = ValueRange.of(*chosen, is_integer=is_integer)
    beyond = sum(image.low < found.low or image.high > found.high for image in images)
    if beyond:
        warnings.warn(
            f"{beyond} of the {len(images)} images of more than 8 bits that were looked at have values outside {found} "
            f"({low:g} to {high:g}), which are cut off so that the others keep their contrast; convert them to one "
            "range if that is wrong",
            DataWarning,
            stacklevel=4,
        )
    return found


def _white(value: float, is_integer: bool) -> int | None:
    return next((white for white in WHITES[is_integer:] if value <= white), None)
