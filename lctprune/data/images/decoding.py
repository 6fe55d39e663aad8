"""Decode an image file: upright, opaque, three channels of 8 bits, whatever the file holds."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image, ImageFile, UnidentifiedImageError

from lctprune.config.images import FULL_16_BITS, ImagePreprocessing, ValueRange
from lctprune.data.images.jpeg import orientation_of, plain_jpeg
from lctprune.data.packed_samples import ImageSource, Packed, content_of
from lctprune.errors import DataError, first_line
from lctprune.utils.files import require_regular

Array = numpy.ndarray[Any, Any]
# of Pillow's formats those of pictures, but none that starts another program (EPS) or reads other files
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000", "DIB", "TGA", "DDS", "ICO", "PCX")
_TURNS = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP_PNG = ("RGB;16B", "LA;16B", "RGBA;16B")  # of which Pillow gives the upper 8 bits
_UNCHANGED = 0  # torchvision's ImageReadMode: all channels and bits that the file has
_LEVELS = {"L;2": 85, "L;4": 17}  # between the grey levels of fewer than 8 bits
_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339  # tags of a TIFF file
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2  # and their values
_DAMAGE = (OSError, EOFError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, struct.error)


def read_image(path: ImageSource, preprocessing: ImagePreprocessing) -> Array:
    """Read an image file (of several frames the first) as upright, opaque RGB, in its own size.

    Returns:
        uint8 [height, width, 3].

    Raises:
        DataError: the file cannot be read as an image, or its pixels cannot be understood.
    """
    with suppress(OSError):  # which `opened` explains
        if (plain := plain_jpeg(path)) is not None:
            pixels, orientation = plain
            is_upright = orientation not in _TURNS or not preprocessing.orientation
            return pixels if is_upright else _array(_turned(Image.fromarray(pixels), orientation))
    return _array(_by_pillow(path, preprocessing))


def _by_pillow(path: ImageSource, preprocessing: ImagePreprocessing) -> Image.Image:
    with opened(path) as image:
        raw_mode = raw_mode_of(image)
        orientation = _orientation(image) if preprocessing.orientation else 1
        values = stored_values(image, raw_mode, path)
        if values is not None:
            rgb = _of_values(values, image.info.get("transparency"), preprocessing, path)
        elif preprocessing.background is not None and image.has_transparency_data:
            rgb = _on_background(image, raw_mode, preprocessing.background)
        else:
            rgb = image.convert("RGB")
    return _turned(rgb, orientation)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _array(image: Image.Image) -> Array:
    return numpy.array(image)  # a copy, which may be written to


@contextmanager
def opened(path: ImageSource) -> Iterator[ImageFile.ImageFile]:
    """Open an image file; its pixels are read when they are asked for.

    Raises:
        DataError: the file is not an image, or it is damaged; also if that shows inside the block.
    """
    try:
        if not isinstance(path, Packed):
            require_regular(Path(path), DataError)
        with Image.open(io.BytesIO(path.content()) if isinstance(path, Packed) else path, formats=_formats()) as image:
            if image.format == "TIFF":
                image.filename = ""  # or Pillow maps the file into memory, with the sides of a turned image exchanged
            yield image
    except DataError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, *_DAMAGE) as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path} cannot be read as an image (it does not exist); give the path of one") from error
        reason = first_line(error)
        raise DataError(f"{path} cannot be read as an image ({reason}); repair it or move it away") from error


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # AVIF, JPEG 2000 and WebP are not built in everywhere


def raw_mode_of(image: ImageFile.ImageFile) -> str:
    """Return the name of the pixels' format in the file, such as RGB;16B; of an image whose pixels are not read yet."""
    arguments = image.tile[0].args if image.tile else ""
    return arguments if isinstance(arguments, str) else str(next(iter(arguments or ()), ""))


def is_deep(image: ImageFile.ImageFile, raw_mode: str) -> bool:
    """Return whether `stored_values` can give more than 8 bits of an image."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16") or _is_deep_png(image, raw_mode)


def is_cut_to_8_bits(image: ImageFile.ImageFile, raw_mode: str) -> bool:
    """Return whether Pillow gives the upper 8 of an image's 16 bits, and nothing else here reads the others."""
    if image.format == "PPM":
        return image.mode == "RGB" and bool(image.tile) and image.tile[0].args == (raw_mode, 2**16 - 1)
    return ";16" in raw_mode and image.mode in ("RGB", "RGBA", "CMYK") and not _is_deep_png(image, raw_mode)


def stored_values(image: ImageFile.ImageFile, raw_mode: str, path: ImageSource) -> Array | None:
    """Return the stored numbers of an image of more than 8 bits, [height, width] or [height, width, channels].

    The last of 2 or 4 channels is alpha, in 16 bits.

    Returns:
        None for an image of 8 bits or fewer.

    Raises:
        DataError: numbers are not finite, or of a kind that Pillow reads wrong.
    """
    if _is_deep_png(image, raw_mode):
        return _deep_png(path)
    tags = getattr(image, "tag_v2", {})
    kind = numpy.max(tags.get(_SAMPLE_FORMAT, _UNSIGNED))
    if not is_deep(image, raw_mode):
        if kind == _SIGNED:
            raise DataError(f"{path} holds signed numbers of 8 bits; convert it to unsigned ones")
        return None
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise DataError(f"{path} stores white as 0, in more than 8 bits; convert it to one in which black is 0")
    values = numpy.asarray(image)
    if image.mode == "I" and tags and kind == _UNSIGNED:
        values = values.view(numpy.uint32)
    if image.mode == "F" and not numpy.isfinite(values).all():
        raise DataError(f"{path} holds numbers that are not finite; replace them")
    return values


def _is_deep_png(image: ImageFile.ImageFile, raw_mode: str) -> bool:
    return image.format == "PNG" and raw_mode in _DEEP_PNG


def _deep_png(path: ImageSource) -> Array:
    import torchvision.io  # noqa: F401, it registers the operation; its own functions warn that they will be replaced

    content = torch.frombuffer(bytearray(content_of(path)), dtype=torch.uint8)
    try:
        values = torch.ops.image.decode_png(content, _UNCHANGED, False)  # uint16 [channels, height, width]
    except (RuntimeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read as an image of 16 bits a channel ({first_line(error)}); convert it to 8 bits"
        ) from error
    array: Array = values.permute(1, 2, 0).numpy()
    return array


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, where there is none or it cannot be read."""
    image.load()  # in some formats it stands behind the pixels
    return orientation_of(image)


def _on_background(image: Image.Image, raw_mode: str, background: tuple[int, ...]) -> Image.Image:
    if raw_mode in _LEVELS:  # the transparent level stands there as in the file
        image.info["transparency"] *= _LEVELS[raw_mode]
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (*background, 255)), rgba).convert("RGB")


def _of_values(values: Array, transparent: object, preprocessing: ImagePreprocessing, path: ImageSource) -> Image.Image:
    """Turn stored numbers into 8 bits a channel, and put them on the background.

    Args:
        values: stored numbers, [height, width] or [height, width, channels].
        transparent: value or colour that stands for transparent, if one does.
        preprocessing: range of the values, and the background.
        path: file, for messages.
    """
    values = values.reshape(*values.shape[:2], -1)
    has_alpha = values.shape[2] in (2, 4)
    colours = values[..., :-1] if has_alpha else values
    pixels = levels(colours, preprocessing.values or _range_of_one(colours, path))
    pixels = numpy.broadcast_to(pixels, (*pixels.shape[:2], 3))
    if preprocessing.background is not None:
        background = numpy.array(preprocessing.background)
        if has_alpha:
            opacity = values[..., -1:] / (2**16 - 1)
            pixels = numpy.rint(pixels * opacity + background * (1 - opacity))
        elif transparent is not None:
            pixels = numpy.where((colours == transparent).all(-1, keepdims=True), background, pixels)
    return Image.fromarray(numpy.ascontiguousarray(pixels, dtype=numpy.uint8))


def levels(values: Array, range: ValueRange) -> Array:
    """Return floor((value - low) / step) for each value, at least 0 and at most 255, as uint8."""
    if values.dtype.kind == "u" and range.low == 0 and range.step >= 1 and range.step == int(range.step):
        quotients: Array = values // values.dtype.type(range.step)  # equal, and faster
        return quotients.clip(None, 255).astype(numpy.uint8)
    steps: Array = numpy.floor((values.astype(numpy.float64) - range.low) / range.step)
    return steps.clip(0, 255).astype(numpy.uint8)


def _range_of_one(values: Array, path: ImageSource) -> ValueRange:
    """Return the full range of 16 bits, for a file that makes use of it where no range is known.

    Raises:
        DataError: its range is not clear.
    """
    if values.dtype.kind != "f" and values.min() >= 0 and 2**14 <= values.max() < 2**16:
        return FULL_16_BITS
    raise DataError(
        f"{path} has more than 8 bits a channel, and values from {values.min():g} to {values.max():g}, whose range is "
        "not known, for the training images that were looked at have 8 bits; convert it to 8 bits"
    )
