"""The parts of model.json by which a program feeds a network and reads its outputs: one class per kind of input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lctprune.config.images import ImagePreprocessing, Resize, ValueRange
from lctprune.config.reading import from_json
from lctprune.config.table import ColumnEncoding, TableEncoding
from lctprune.errors import ConfigError, RunError

AGAIN = "export it again"
Shape = tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """How an image file becomes an input, float32 [batch, channels, size, size]."""

    shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    orientation: Literal["exif", "as stored"]
    values: ValueRange | None
    background: tuple[int, ...] | None
    resize: Resize
    shorter_side: int
    size: int

    def __post_init__(self) -> None:
        channels = self.shape[1]
        if channels not in (1, 3):
            raise ConfigError(f"shape has {channels} channels; images in files have 1 or 3")
        _require_statistics(self.mean, self.std, channels)
        _ = self.preprocessing

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """The steps from an image file to pixels."""
        return ImagePreprocessing(
            size=self.size,
            shorter_side=self.shorter_side,
            orientation=self.orientation == "exif",
            values=self.values,
            background=self.background,
            resize=self.resize,
        )


@dataclass(frozen=True, kw_only=True)
class PixelInput:
    """How an image file becomes decoded pixels, uint8 [batch, height, width, channels], of any size."""

    shape: Shape
    orientation: Literal["exif", "as stored"]
    values: ValueRange | None
    background: tuple[int, ...] | None

    def __post_init__(self) -> None:
        if self.shape[-1] not in (1, 3):
            raise ConfigError(f"shape has {self.shape[-1]} channels; images in files have 1 or 3")
        _ = self.preprocessing

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """The steps of decoding; the file itself resizes."""
        return ImagePreprocessing(
            size=1,
            shorter_side=1,
            orientation=self.orientation == "exif",
            values=self.values,
            background=self.background,
        )


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """How a text becomes an input, int64 [batch, time]."""

    shape: Shape
    vocabulary: tuple[str, ...]
    max_length: int
    tokenizer: str = "words"


@dataclass(frozen=True, kw_only=True)
class TableInput:
    """How a row becomes an input, float32 [batch, features]; the names of its columns are not always known."""

    shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    columns: tuple[str, ...] | None = None
    encoding: tuple[ColumnEncoding, ...] | None = None  # of a table that has not only numbers

    def __post_init__(self) -> None:
        _require_statistics(self.mean, self.std, self.shape[1])
        if self.columns is not None and len(self.columns) != self.shape[1]:
            raise ConfigError(f"columns has {len(self.columns)} names; it must have {self.shape[1]}")
        if self.encoding is not None and len(TableEncoding(self.encoding).names) != self.shape[1]:
            raise ConfigError(f"encoding makes {len(TableEncoding(self.encoding).names)} numbers, not {self.shape[1]}")


Input = ImageInput | PixelInput | TextInput | TableInput


@dataclass(frozen=True, kw_only=True)
class Output:
    """What outputs mean; mean and deviation of standardised numbers."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or any(each <= 0 for each in self.std):
            raise ConfigError("mean and std must be as many numbers, and std positive")


def input_of(values: Mapping[str, Any] | None, *, file: Path, remedy: str = AGAIN) -> Input:
    """Read how an input is made.

    Args:
        values: field `input` of model.json.
        file: the file, for messages.
        remedy: what to do, for messages.

    Raises:
        RunError: that is not recorded, no file holds such inputs, or a value cannot be used.
    """
    shape = values.get("shape") if isinstance(values, Mapping) else None
    dtype = values.get("dtype") if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping) or not isinstance(shape, list):
        raise RunError(f"{file} does not say how an input is made: give the network's inputs from a program")
    kinds: dict[tuple[object, int], type[Input]] = {
        ("uint8", 4): PixelInput,
        ("float32", 4): ImageInput,
        ("int64", 2): TextInput,
        ("float32", 2): TableInput,
    }
    sizes = f"{dtype} {[*shape]}"
    if values.get("preprocessing") == "that of the program that trained it":
        raise RunError(
            f"{file} does not say how an input ({sizes}) is made, as the data was made in a program; give inputs from "
            "there"
        )
    kind = kinds.get((dtype, len(shape)))
    if kind is None:
        raise RunError(
            f"{file}: the network takes inputs of {sizes[:80]}, which are read from no file: images, lines of text "
            "and rows of a table are; give its inputs from a program"
        )
    return from_json(kind, values, "input", file=file, remedy=remedy)


def _require_statistics(mean: tuple[float, ...], std: tuple[float, ...], count: int | str) -> None:
    if len(mean) != count or len(std) != count or any(each <= 0 for each in std):
        raise ConfigError(
            f"mean has {len(mean)} numbers and std {len(std)}; they must have {count}, one per channel or column, and "
            "std be positive"
        )
