"""Classify images with an exported network: needs torch, torchvision and Pillow, and no lctprune.

python deploy_without_lctprune.py runs/mine/selected cat.jpg dog.jpg
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image
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
    """Do what `about["input"]["preprocessing"]` says: resize, crop the centre, scale to 0..1, subtract mean, divide."""
    _, channels, side, _ = about["input"]["shape"]
    resized = re.search(r"shorter side to (\d+)", about["input"]["preprocessing"])
    assert resized, "model.json describes no image"
    image = Image.open(path).convert("RGB" if channels == 3 else "L")
    transform = v2.Compose(
        [
            v2.Resize(int(resized[1]), antialias=True),
            v2.CenterCrop(side),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(about["input"]["mean"], about["input"]["std"]),
        ]
    )
    return transform(image)  # [channels, side, side]


if __name__ == "__main__":
    network, about = load(Path(sys.argv[1]))
    paths = [Path(name) for name in sys.argv[2:]]
    with torch.no_grad():
        probabilities = network(torch.stack([prepare(path, about) for path in paths])).softmax(1)
    for path, (probability, index) in zip(paths, zip(*probabilities.max(1), strict=True), strict=True):
        print(f"{path}: {about['classes'][index]} ({probability:.1%})")
