"""Look at a sample of the training images: their sizes, the range of their values, and whether they differ at all."""

from __future__ import annotations

import os
import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

import numpy
import torch
from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.config.images import LARGE_IMAGE, ImagePreprocessing, Resize, colour_of
from lctprune.data.images.decoding import is_cut_to_8_bits, is_deep, opened, raw_mode_of, stored_values
from lctprune.data.images.files import pixels_of
from lctprune.data.images.value_range import OUTLYING_IMAGES, ImageValues, range_of
from lctprune.data.packed_samples import ImageSource
from lctprune.errors import DataError, DataWarning

SAMPLE, DEEP_SAMPLE = 512, 128  # images whose sizes are looked at, and those of more than 8 bits that are read
CLASSES, ALIKE = 64, 16  # classes that are examined for images that are all alike, and images of each
LEAST_SIDE, MOST_SIDE, MULTIPLE = 8, 224, 32  # of the size that is chosen; above 96 pixels a multiple
MOST_CROPPED, MOST_CROPPED_UNASKED = 0.2, 0.5  # part of the average picture: without a note, and without being asked
NAMED = 3  # classes that a message names
_T = TypeVar("_T")


class _Header(NamedTuple):
    """What is known of an image file before its pixels are read."""

    path: ImageSource
    width: int
    height: int
    is_deep: bool
    is_cut_to_8_bits: bool


def chosen_preprocessing(
    paths: Sequence[ImageSource], labels: Tensor, classes: Sequence[str], config: DataConfig, *, most: int | None = None
) -> ImagePreprocessing:
    """Choose the preprocessing of a data set by its settings and a sample of its training images.

    The side of the square is the median of the shorter sides (of the longer ones, if images are padded), but at least
    8; above 96 pixels it is rounded down to a multiple of 32, and at most `most`.

    Args:
        paths: training images.
        labels: their labels, [n].
        classes: names of the classes.
        config: image size, way of resizing, background and seed.
        most: largest side of the square, such as that of the images that weights were trained on; by default 224.

    Raises:
        DataError: an image cannot be read.

    Warns:
        DataWarning: cropping loses a large part of the pictures, or they are padded unasked; values lie outside the
            range that is chosen; or the images of a class are all alike.
    """
    chosen = torch.randperm(len(paths), generator=torch.Generator().manual_seed(config.seed))[:SAMPLE]
    headers = _parallel(_header, (paths[index] for index in chosen.tolist()))
    sides = [(each.width, each.height) for each in headers]
    resize = _resize_for(sides, config.resize)
    _require_contrast([each.path for each in headers if each.is_cut_to_8_bits])
    deep = [each.path for each in headers if each.is_deep][:DEEP_SAMPLE]
    preprocessing = ImagePreprocessing.of(
        config.image_size or natural_size(sides, resize, most=most or MOST_SIDE),
        resize=resize,
        background=colour_of(config.background),
        values=range_of(_parallel(_values, deep)) if deep else None,
    )
    _warn_of_likeness(paths, labels, classes, preprocessing, seed=config.seed)
    return preprocessing


def natural_size(sides: Sequence[tuple[int, int]], resize: Resize, *, most: int = MOST_SIDE) -> int:
    """Return the side of the square for images with these sides, in pixels; see `chosen_preprocessing`."""
    measure = max if resize == "pad" else min
    side = int(statistics.median_low(measure(each) for each in sides))
    if side < min(LARGE_IMAGE, most):
        return max(LEAST_SIDE, side)
    return min(most, max(MULTIPLE, side // MULTIPLE * MULTIPLE)) if side < most else most


def _parallel(function: Callable[[ImageSource], _T], paths: Iterable[ImageSource]) -> list[_T]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, paths))


def _header(path: ImageSource) -> _Header:
    with opened(path) as image:
        raw_mode = raw_mode_of(image)
        return _Header(path, *image.size, is_deep(image, raw_mode), is_cut_to_8_bits(image, raw_mode))


def _values(path: ImageSource) -> ImageValues:
    with opened(path) as image:
        values = stored_values(image, raw_mode_of(image), path)
        assert values is not None, "only deep images are asked"
        return ImageValues.of(values)


def _require_contrast(paths: Sequence[ImageSource]) -> None:
    """Refuse images of 16 bits a channel whose upper 8, which are all that can be read of them, hold little.

    Raises:
        DataError: nearly all of them use less than a quarter of 16 bits.
    """
    highest = sorted(each.typical_high for each in _parallel(_upper_values, paths))
    if highest and (high := highest[int(len(highest) * (1 - OUTLYING_IMAGES))]) < 2**6 - 1:
        raise DataError(
            f"{min(map(str, paths))} and images like it store 16 bits a channel, of which only the upper 8 can be read "
            f"and reach {high:g} of 255; convert them to 8 bits, or to PNG"
        )


def _upper_values(path: ImageSource) -> ImageValues:
    with opened(path) as image:
        return ImageValues.of(numpy.asarray(image.convert("RGB")))


def _resize_for(sides: Sequence[tuple[int, int]], asked: Literal["auto", "crop", "pad", "squeeze"]) -> Resize:
    """Return the way of resizing images with these sides, and warn if much of them is lost, or padded unasked."""
    lost = statistics.fmean(1 - min(each) / max(each) for each in sides)  # of the area, by a crop to a square
    if asked == "auto" and lost > MOST_CROPPED_UNASKED:
        warnings.warn(
            f"a crop to a square would cut {lost:.0%} of the average picture off at its ends, so pictures are padded; "
            "`resize=crop`, pad or squeeze says how it should be",
            DataWarning,
            stacklevel=4,
        )
        return "pad"
    resize: Resize = "crop" if asked == "auto" else asked
    if resize == "crop" and lost > MOST_CROPPED:
        warnings.warn(
            f"pictures are cropped to a square, which cuts {lost:.0%} of the average one off at its ends; "
            "`resize=pad` or squeeze keeps them whole",
            DataWarning,
            stacklevel=4,
        )
    return resize


def _warn_of_likeness(
    paths: Sequence[ImageSource],
    labels: Tensor,
    classes: Sequence[str],
    preprocessing: ImagePreprocessing,
    *,
    seed: int,
) -> None:
    """Warn if the images of some classes, or of all, are alike as far as a sample shows."""
    generator = torch.Generator().manual_seed(seed)

    def examined(label: int) -> tuple[Tensor, int] | None:
        """Return the first image of a class and how many are like it; None if one is not."""
        of_class = (labels == label).nonzero().flatten()
        some = of_class[torch.randperm(len(of_class), generator=generator)[:ALIKE]].tolist()
        first = pixels_of(paths[some[0]], preprocessing)
        are_alike = all(torch.equal(first, pixels_of(paths[index], preprocessing)) for index in some[1:])
        return (first, len(some)) if are_alike else None

    chosen = torch.randperm(len(classes), generator=generator)[:CLASSES].sort().values.tolist()
    alike = {label: found for label in chosen if (found := examined(label))}
    remedy = "look at them (if their shapes stand in their transparency, give another `background`)"
    if len(alike) == len(chosen):
        first, _ = alike[chosen[0]]
        if all(torch.equal(first, other) for other, _ in alike.values()):
            count = sum(count for _, count in alike.values())
            message = f"the {count} training images that were looked at are all alike after decoding; {remedy}"
            warnings.warn(message, DataWarning, stacklevel=4)
            return
    names = [f"{classes[label]!r} ({count})" for label, (_, count) in alike.items() if count > 1]
    if names:
        shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        message = f"within these classes the training images that were looked at are all alike: {shown}; {remedy}"
        warnings.warn(message, DataWarning, stacklevel=4)
