"""Decode plain JPEG files by libjpeg-turbo itself: about twice Pillow's pace from file to pixels."""

from __future__ import annotations

import io
import os
import stat
from typing import Any

import numpy
from PIL import ExifTags, Image

from lctprune.data.packed_samples import ImageSource, Packed

try:
    import simplejpeg
except ImportError:  # a platform for which it is not built; Pillow gives equal pixels
    simplejpeg = None

_START = b"\xff\xd8\xff"
_PLAIN = ("YCbCr", "Gray")  # colours that are RGB in one way only
_ORIENTED = (b"Exif\0", b"tiff:Orientation")  # one of which a file with an orientation holds


def plain_jpeg(path: ImageSource) -> tuple[numpy.ndarray[Any, Any], int] | None:
    """Decode a JPEG file of 8 bits, in grey or the usual colours; the pixels are those that Pillow gives.

    Args:
        path: file, or a link to one; or where the image lies in another file.

    Returns:
        Pixels, uint8 [height, width, 3], not turned, and the EXIF orientation. None for any other file, also for one
        that is damaged or very large, of which Pillow says what is wrong.

    Raises:
        OSError: the file cannot be read.
    """
    if simplejpeg is None:
        return None
    content = _content(path)
    if content is None:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in _PLAIN or height * width > (Image.MAX_IMAGE_PIXELS or height * width):
            return None
        pixels = simplejpeg.decode_jpeg(content)
    except (ValueError, RuntimeError):
        return None
    if not any(mark in content for mark in _ORIENTED):
        return pixels, 1
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:  # reads what stands before the pixels
        return pixels, orientation_of(image)


def _content(path: ImageSource) -> bytes | None:
    """Return the content of a regular file that begins as JPEG files do; None for any other."""
    if isinstance(path, Packed):
        content = path.content()
        return content if content.startswith(_START) else None
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116, a path object takes longer than all of this
        return None
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        start = file.read(len(_START))
        return start + file.readall() if start == _START else None


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, where there is none or it cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # many photos have broken metadata, of which Pillow raises errors of all kinds
        return 1
    return orientation if isinstance(orientation, int) else 1
