"""Files of every kind are read upright, opaque and with their contrast; an oracle composites pixel by pixel."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image, ImageOps

from lctprune.config.images import FULL_16_BITS, ImagePreprocessing, ValueRange
from lctprune.data.images import jpeg
from lctprune.data.images.decoding import read_image
from lctprune.data.images.jpeg import plain_jpeg
from lctprune.errors import DataError

WHITE = ImagePreprocessing.of(8)
BLUE = (10, 20, 200)
INK = numpy.random.default_rng(0).integers(0, 256, (6, 8)).astype(numpy.uint8)  # [height, width]
COLOURS = numpy.random.default_rng(1).integers(0, 256, (6, 8, 3)).astype(numpy.uint8)
ORIENTATION = 0x0112


def read(path: Path, preprocessing: ImagePreprocessing = WHITE) -> Any:
    return numpy.asarray(read_image(path, preprocessing))


def png(path: Path, rows: list[bytes], width: int, depth: int, kind: int, transparent: bytes = b"") -> Path:
    """Write a PNG by hand, for what Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"tRNS", transparent) if transparent else b""]
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


# --- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_orientation_is_undone(orientation: int, suffix: str, tmp_path: Path) -> None:
    upright = numpy.kron(numpy.array([[0, 80, 160], [255, 40, 120]], dtype=numpy.uint8), numpy.ones((16, 16), "uint8"))
    stored = {  # what a camera held in this way stores
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: numpy.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: numpy.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"image.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    Image.fromarray(numpy.ascontiguousarray(stored)).convert("RGB").save(path, exif=exif, **options)
    found = read(path)
    assert found.shape == (*upright.shape, 3)
    assert numpy.abs(found[..., 0].astype(int) - upright).max() <= (8 if suffix == "jpg" else 0)
    if suffix == "tif":  # which Pillow turns by itself
        for values in (stored, stored.astype(numpy.uint16) * 257):
            Image.fromarray(numpy.ascontiguousarray(values)).save(path, tiffinfo={ORIENTATION: orientation})
            assert numpy.array_equal(read(path)[..., 0], upright)
    else:
        earlier = ImagePreprocessing.of_earlier_version(8, None)
        assert numpy.abs(read(path, earlier)[..., 0].astype(int) - stored).max() <= (8 if suffix == "jpg" else 0)


def test_a_broken_orientation_is_none(tmp_path: Path) -> None:
    for index, exif in enumerate((b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0")):
        Image.fromarray(COLOURS).save(tmp_path / f"{index}.png", exif=exif)
        assert numpy.array_equal(read(tmp_path / f"{index}.png"), COLOURS)
    nine = Image.Exif()
    nine[ORIENTATION] = 9
    Image.fromarray(COLOURS).save(tmp_path / "nine.png", exif=nine)
    assert numpy.array_equal(read(tmp_path / "nine.png"), COLOURS)


# --- plain JPEG files, which libjpeg-turbo decodes itself ------------------------------------------------------------


def by_pillow(path: Path) -> Any:
    with Image.open(path) as image:
        return numpy.asarray(ImageOps.exif_transpose(image).convert("RGB"))


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "colours": ("RGB", {}),
    "grey": ("L", {}),
    "whole colours": ("RGB", {"subsampling": 0, "quality": 100}),
    "halved colours": ("RGB", {"subsampling": 1}),
    "progressive": ("RGB", {"progressive": True}),
    "inks": ("CMYK", {}),
    "colours as they are": ("RGB", {"keep_rgb": True}),
    "XMP": ("RGB", {"xmp": b"<x tiff:Orientation='6' tiff:Orientation=\"6\"/>"}),
    "comment": ("RGB", {"comment": b"Exif\0tiff:Orientation"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_jpeg_files_of_all_kinds_have_the_pixels_that_pillow_gives(kind: str, tmp_path: Path) -> None:
    mode, options = KINDS[kind]
    pixels = numpy.random.default_rng(2).integers(0, 256, (37, 50, 3)).astype(numpy.uint8)
    Image.fromarray(pixels).convert(mode).save(path := tmp_path / "image.jpg", **options)
    assert (plain_jpeg(path) is None) == (kind in ("inks", "colours as they are"))
    assert numpy.array_equal(read(path), by_pillow(path))
    assert read(path).flags.writeable
    content = path.read_bytes()
    path.write_bytes(content + b"behind its end")
    assert numpy.array_equal(read(path), by_pillow(path))
    path.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(DataError, match="truncated"):
        read(path)


def test_the_first_of_several_pictures_in_a_jpeg_file_is_read(tmp_path: Path) -> None:
    first, second = Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)
    first.save(path := tmp_path / "image.mpo", save_all=True, append_images=[second])
    assert plain_jpeg(path) is not None
    assert numpy.array_equal(read(path), by_pillow(path))


def test_a_jpeg_of_too_many_pixels_is_pillows_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOURS).save(path := tmp_path / "image.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match="exceeds limit of 40 pixels"):
        read(path)


def test_without_the_fast_decoder_pixels_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOURS).save(path := tmp_path / "image.jpg")
    expected = read(path)
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert plain_jpeg(path) is None
    assert numpy.array_equal(read(path), expected)


# --- transparency ----------------------------------------------------------------------------------------------------


def on(background: tuple[int, ...], colours: Any, alpha: Any) -> Any:
    opacity = alpha[..., None] / 255
    return colours * opacity + numpy.array(background) * (1 - opacity)


@pytest.mark.parametrize("background", [(255, 255, 255), BLUE])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGBa.tif", "La.tif", "webp"])
def test_transparent_images_are_put_on_the_background(mode: str, background: tuple[int, ...], tmp_path: Path) -> None:
    black = Image.new("L", (8, 6))
    alpha = Image.fromarray(INK)
    path = tmp_path / "image.png"
    if mode == "P":
        palette = alpha.convert("P")
        palette.putpalette([0, 0, 0] * 256)
        palette.save(path, transparency=bytes(range(256)))
    elif mode == "LA":
        Image.merge("LA", (black, alpha)).save(path)
    elif mode == "webp":
        Image.merge("RGBA", (black, black, black, alpha)).save(path := tmp_path / "a.webp", lossless=True, exact=True)
    elif mode == "RGBa.tif":
        Image.merge("RGBA", (black, black, black, alpha)).save(path := tmp_path / "a.tif", tiffinfo={338: 1})
    elif mode == "La.tif":
        Image.merge("LA", (black, alpha)).save(path := tmp_path / "a.tif")
        content, extra = path.read_bytes(), struct.pack("<HHI", 338, 3, 1)
        path.write_bytes(content.replace(extra + b"\2", extra + b"\1"))  # alpha that the colours are multiplied by
        with Image.open(path) as image:
            assert image.mode == "La"
    else:
        Image.merge("RGBA", (black, black, black, alpha)).save(path)
    found = read(path, ImagePreprocessing.of(8, background=background))
    assert numpy.abs(found - on(background, numpy.zeros((6, 8, 3)), INK)).max() <= 1
    if mode in ("RGBA", "LA", "webp"):
        assert read(path, ImagePreprocessing.of_earlier_version(8, None)).max() == 0


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "I;16"])
def test_the_transparent_colour_becomes_the_background(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    if mode == "RGB":
        Image.fromarray(COLOURS).save(path, transparency=tuple(int(part) for part in COLOURS[2, 3]))
        expected = numpy.where((COLOURS[2, 3] == COLOURS).all(-1, keepdims=True), BLUE, COLOURS)
    elif mode == "1":
        png(path, [b"\x40"], 2, 1, 0, struct.pack(">H", 1))
        expected = numpy.array([[[0, 0, 0], BLUE]])
    elif mode == "L":
        Image.fromarray(INK).save(path, transparency=int(INK[0, 0]))
        expected = numpy.where((INK[0, 0] == INK)[..., None], BLUE, INK[..., None])
    else:
        png(path, [struct.pack(">3H", 300, 4000, 0)], 3, 16, 0, struct.pack(">H", 300))
        expected = numpy.array([[BLUE, [250] * 3, [0] * 3]])
    twelve = ValueRange.of(0, 4095, is_integer=True)
    assert numpy.array_equal(read(path, ImagePreprocessing.of(8, background=BLUE, values=twelve)), expected)


@pytest.mark.parametrize(("depth", "level"), [(2, 3), (4, 15)])
def test_the_transparent_level_of_few_bits_is_that_of_the_file(depth: int, level: int, tmp_path: Path) -> None:
    row = bytes([level << (8 - depth)])  # white, then black
    path = png(tmp_path / "image.png", [row], 2, depth, 0, struct.pack(">H", level))
    assert read(path, ImagePreprocessing.of(8, background=BLUE)).tolist() == [[[*BLUE], [0, 0, 0]]]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_read(suffix: str, tmp_path: Path) -> None:
    first = Image.new("RGBA", (8, 6), (255, 0, 0, 255))
    first.paste((0, 0, 0, 0), (2, 0, 4, 6))
    second = Image.new("RGBA", (8, 6), (0, 255, 0, 255))
    options = {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], **options)
    found = read(tmp_path / f"a.{suffix}")
    assert (found[:, 2:4] == 255).all()
    assert (found[:, [0, 1, 4, 5, 6, 7]] == (255, 0, 0)).all()


# --- more than 8 bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "kind"), [(10, "png"), (12, "png"), (14, "tif"), (16, "pgm"), (12, "big"), (16, "I")])
def test_values_are_spread_over_256_levels(bits: int, kind: str, tmp_path: Path) -> None:
    values = INK.astype(numpy.uint16) << (bits - 8)
    path = tmp_path / ("image.tif" if kind in ("big", "I") else f"image.{kind}")
    if kind == "pgm":
        path.write_bytes(b"P5 8 6 65535\n" + values.astype(">u2").tobytes())
    elif kind == "big":
        Image.frombytes("I;16B", (8, 6), values.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(values.astype(numpy.int32) if kind == "I" else values).save(path)
    steps = ImagePreprocessing.of(8, values=ValueRange.of(0, 2**bits - 1, is_integer=True))
    assert numpy.array_equal(read(path, steps), numpy.repeat(INK[..., None], 3, 2))


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits_a_channel_keeps_all_of_them(kind: int, channels: int, tmp_path: Path) -> None:
    values = numpy.random.default_rng(2).integers(0, 4096, (6, 8, channels)).astype(numpy.uint16)
    if channels != 3:
        values[..., -1] = numpy.where(values[..., -1] > 2048, 65535, 0)
    path = png(tmp_path / "a.png", [row.astype(">u2").tobytes() for row in values], 8, 16, kind)
    found = read(path, ImagePreprocessing.of(8, values=ValueRange.of(0, 4095, is_integer=True)))
    colours = values if channels == 3 else values[..., :-1]
    expected = numpy.broadcast_to(colours >> 4, found.shape)
    if channels != 3:
        expected = numpy.where(values[..., -1:] > 0, expected, 255)
    assert numpy.array_equal(found, expected)


def test_floating_point_and_signed_values(tmp_path: Path) -> None:
    values = numpy.array([[-1000.0, 0.0, 999.0, 5000.0]])
    steps = ImagePreprocessing.of(8, values=ValueRange(low=-1000, high=1000, step=2000 / 256))
    for kind in (numpy.float32, numpy.int32):
        Image.fromarray(values.astype(kind)).save(tmp_path / "a.tif")
        assert read(tmp_path / "a.tif", steps)[0, :, 0].tolist() == [0, 128, 255, 255]
    Image.fromarray(numpy.array([[0.5, numpy.nan]], dtype=numpy.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif holds numbers that are not finite"):
        read(tmp_path / "a.tif", steps)


def test_without_a_known_range_only_full_16_bits_are_read(tmp_path: Path) -> None:
    full = INK.astype(numpy.uint16) << 8
    Image.fromarray(full).save(tmp_path / "full.png")
    assert numpy.array_equal(read(tmp_path / "full.png")[..., 0], INK)
    for name, values in {"dark.png": full >> 4, "float.tif": INK.astype(numpy.float32)}.items():
        Image.fromarray(values).save(tmp_path / name)
        with pytest.raises(DataError, match=f"{name} has more than 8 bits .*range is not known.*convert it to 8 bits"):
            read(tmp_path / name)


def test_white_at_zero_is_refused_where_it_would_be_read_inverted(tmp_path: Path) -> None:
    Image.fromarray(INK.astype(numpy.uint16)).save(tmp_path / "a.tif", tiffinfo={262: 0})
    with pytest.raises(DataError, match=r"a\.tif stores white as 0"):
        read(tmp_path / "a.tif", ImagePreprocessing.of(8, values=FULL_16_BITS))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "1", "P"])
def test_other_modes_keep_their_colours(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(
        numpy.kron(numpy.array([[[0] * 3, [255] * 3]], dtype=numpy.uint8), numpy.ones((8, 8, 1), "u1"))
    )
    image.convert(mode).save(tmp_path / "a.tif")
    found = read(tmp_path / "a.tif").astype(int)
    assert found[:, :8].max() <= 2
    assert found[:, 8:].min() >= 253
    if mode == "CMYK":
        image.convert(mode).save(tmp_path / "a.jpg", quality=95)  # inverted, as Adobe has it
        assert read(tmp_path / "a.jpg")[:, 8:].min() >= 250
