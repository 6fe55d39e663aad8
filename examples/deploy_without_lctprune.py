"""Classify images with an exported network: needs torch, torchvision, Pillow and NumPy, and no lctprune.

python deploy_without_lctprune.py runs/mine/selected cat.jpg dog.jpg
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2


def load(folder: Path) -> tuple[torch.jit.ScriptModule, dict[str, Any]]:
    """Read the network and what model.json says about it; refuse a file that is not the one described."""
    about = json.loads((folder / "model.json").read_text())
    path = folder / about["file"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != about["sha256"]:
        raise SystemExit(f"{path} is not the file that model.json describes")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated")
        return torch.jit.load(path), about


def prepare(path: Path, about: dict[str, Any]) -> Tensor:
    """Do what `about["input"]["preprocessing"]` says, by the values beside it: [channels, side, side]."""
    expected = about["input"]
    mean, std = (torch.tensor(expected[name])[:, None, None] for name in ("mean", "std"))
    image = decoded(path, expected["values"], expected["background"], upright=expected["orientation"] == "exif")
    image = square(image, expected).convert("RGB" if len(mean) == 3 else "L")
    return (v2.functional.pil_to_tensor(image) / 255 - mean) / std


def decoded(path: Path, values: dict[str, float] | None, background: list[int] | None, *, upright: bool) -> Image.Image:
    """Read a picture as upright, opaque RGB of 8 bits; of PNGs with 16 bits a colour, Pillow reads the upper 8 only."""
    image: Image.Image = Image.open(path)
    image = ImageOps.exif_transpose(image) if upright else image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        if values is None:
            raise SystemExit(f"{path} has more than 8 bits, and the network was trained on images of 8 bits")
        steps = numpy.floor((numpy.asarray(image, dtype=float) - values["low"]) / values["step"])
        image = Image.fromarray(steps.clip(0, 255).astype(numpy.uint8))
    if background and image.has_transparency_data:
        below = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    return image.convert("RGB")


def square(image: Image.Image, expected: dict[str, Any]) -> Image.Image:
    """Crop, pad or squeeze a picture to the size of the input."""
    size = expected["size"]
    if expected["resize"] == "crop":
        resized = v2.functional.resize(image, [expected["shorter_side"]], antialias=True)
        cropped: Image.Image = v2.functional.center_crop(resized, [size, size])
        return cropped
    if expected["resize"] == "squeeze":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    width, height = (max(1, round(side * (size / max(image.size)))) for side in image.size)
    below = Image.new("RGB", (size, size), tuple(expected["background"]))
    below.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((size - width) // 2, (size - height) // 2))
    return below


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    network, about = load(Path(sys.argv[1]))
    paths = [Path(name) for name in sys.argv[2:]]
    with torch.no_grad():
        probabilities = network(torch.stack([prepare(path, about) for path in paths])).softmax(1)
    for path, (probability, index) in zip(paths, zip(*probabilities.max(1), strict=True), strict=True):
        print(f"{path}: {about['classes'][index]} ({probability:.1%})")
