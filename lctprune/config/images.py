"""How image files become the pixels that a network sees: recorded with a run, and said in its model card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lctprune.errors import ConfigError

Resize = Literal["crop", "pad", "squeeze"]
MOST_PIXELS = 2**14  # a side
LARGE_IMAGE = 97  # pixels a side from which on the centre crop leaves a margin, as usual for 224 pixels
WHITE = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class ValueRange:
    """Range of the stored values of images with more than 8 bits; a value becomes floor((value - low) / step), 0..255.

    Attributes:
        low: value that becomes 0; smaller ones do, too.
        high: value that becomes 255; larger ones do, too.
        step: difference of the stored values from one of the 256 levels to the next.
    """

    low: float
    high: float
    step: float

    def __post_init__(self) -> None:
        if not (self.low < self.high and self.step > 0):
            raise ConfigError(f"values are {self.low} to {self.high} in steps of {self.step}; they must increase")

    @classmethod
    def of(cls, low: float, high: float, *, is_integer: bool) -> ValueRange:
        """Make the range that spreads the values from `low` to `high` evenly over 256 levels."""
        return cls(low=low, high=high, step=(high - low + is_integer) / 256)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


FULL_16_BITS = ValueRange.of(0, 2**16 - 1, is_integer=True)


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessing:
    """Steps from an image file to square 8-bit pixels, in the order of the attributes from `orientation` on.

    Attributes:
        size: side of the square, in pixels.
        shorter_side: length in pixels to which a crop resizes the shorter side before it takes the centre.
        orientation: whether an image is turned as its EXIF orientation says.
        values: range of the stored values of images with more than 8 bits; None where there are no such images.
        background: colour (red, green, blue) that transparent images are put on, and padded ones are filled up with;
            None where transparency is ignored.
        resize: `crop` resizes the shorter side and crops the centre, `pad` fits the longer side and fills up,
            `squeeze` resizes both sides without keeping their ratio.
    """

    size: int
    shorter_side: int
    orientation: bool = True
    values: ValueRange | None = None
    background: tuple[int, ...] | None = WHITE
    resize: Resize = "crop"

    def __post_init__(self) -> None:
        for name in ("size", "shorter_side"):
            if not 1 <= (value := getattr(self, name)) <= MOST_PIXELS:
                raise ConfigError(f"{name} is {value}; it must be between 1 and {MOST_PIXELS} pixels")
        if self.shorter_side < self.size and self.resize == "crop":
            raise ConfigError(f"shorter_side is {self.shorter_side}; it must be at least the size, {self.size}")
        if self.background is not None and not (
            len(self.background) == 3 and all(0 <= x <= 255 for x in self.background)
        ):
            raise ConfigError(f"background is {self.background}; it must be three numbers from 0 to 255")

    @classmethod
    def of(
        cls,
        size: int,
        *,
        resize: Resize = "crop",
        background: tuple[int, ...] = WHITE,
        values: ValueRange | None = None,
        has_margin: bool = True,
    ) -> ImagePreprocessing:
        """Make the preprocessing for images of `size` pixels a side; a crop of large ones leaves a margin."""
        has_margin &= resize == "crop" and size >= LARGE_IMAGE
        shorter_side = size * 8 // 7 if has_margin else size  # 256 for 224
        return cls(size=size, shorter_side=shorter_side, values=values, background=background, resize=resize)

    @classmethod
    def of_earlier_version(cls, shorter_side: int, image_size: int | None) -> ImagePreprocessing:
        """Make the preprocessing of runs that recorded no more than the length of the shorter side.

        Args:
            shorter_side: length to which the shorter side was resized.
            image_size: side of the square where the user set it.
        """
        size = image_size or (shorter_side if shorter_side < LARGE_IMAGE else 224)
        return cls(size=size, shorter_side=shorter_side, orientation=False, values=FULL_16_BITS, background=None)

    def __str__(self) -> str:
        colour = "".join(f"{part:02x}" for part in self.background or ())
        background = f"on #{colour}" if colour else "ignored"
        return (
            f"{self.size} x {self.size} pixels, {self.resize} of {self.shorter_side}, transparency {background}, "
            f"EXIF orientation {'applied' if self.orientation else 'ignored'}"
            f"{f', values {self.values}' if self.values else ''}"
        )


def colour_of(text: str) -> tuple[int, int, int]:
    """Return the colour (red, green, blue), 0 to 255 each, that a name, #rrggbb or rgb(r, g, b) means.

    Raises:
        ValueError: it means none, or a transparent one.
    """
    from PIL import ImageColor  # --help does without it

    colour = ImageColor.getrgb(text)
    if len(colour) != 3:
        raise ValueError(f"{text!r} is not opaque")
    return colour
