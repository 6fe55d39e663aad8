"""Find out how the images were read and normalised that a network's published weights were trained on."""

from __future__ import annotations

import importlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lctprune.data.preprocessing import Normalization
from lctprune.errors import RunError
from lctprune.models.external import torchvision_names
from lctprune.models.names import TIMM
from lctprune.models.transformers_models import image_preprocessing, is_transformers_name
from lctprune.utils.files import read_regular


class OwnImages(NamedTuple):
    """Images that weights were trained on; None for what is not known.

    Attributes:
        size: side in pixels.
        normalization: mean and deviation of the channels.
    """

    size: int | None = None
    normalization: Normalization | None = None


def own_images(name: str, weights: str | None = None) -> OwnImages:
    """Return the size and normalisation of the images that the weights of a named network were trained on.

    Args:
        name: name of the network; torchvision, timm or the files of Hugging Face say how it was trained.
        weights: file or folder of weights, beside which timm may have written its configuration; by default those that
            are published.
    """
    if is_transformers_name(name):
        return OwnImages(*image_preprocessing(name))
    if name.startswith(TIMM):
        return _timm_images(name.removeprefix(TIMM), weights)
    if name not in torchvision_names():
        return OwnImages()
    transforms = importlib.import_module("torchvision.models").get_model_weights(name).DEFAULT.transforms()
    normalization = Normalization(tuple(transforms.mean), tuple(transforms.std))
    if name in ("googlenet", "inception_v3"):  # to which `transform_input` converts ImageNet's
        normalization = Normalization((0.5,) * 3, (0.5,) * 3)
    return OwnImages(int(transforms.crop_size[0]), normalization)


def _timm_images(name: str, weights: str | None) -> OwnImages:
    """Read a configuration of timm: config.json beside the weights, as on its hub, or else the name's own."""
    content: dict[str, Any] = {}
    if weights is not None:
        path = Path(weights)
        with suppress(OSError, ValueError, TypeError, AttributeError, LookupError, RunError, RecursionError):
            beside = json.loads(read_regular((path if path.is_dir() else path.parent) / "config.json"))
            found = beside["pretrained_cfg"] if beside.get("architecture", name) == name else {}
            Normalization(tuple(map(float, found["mean"])), tuple(map(float, found["std"])))
            int(found.get("input_size", (0,))[-1])
            content = found  # else there is no such file, or one of another kind
    if not {"mean", "std"} <= content.keys():
        cfg = importlib.import_module("timm").models.get_pretrained_cfg(name)
        if cfg is None:
            return OwnImages()
        content = {"mean": cfg.mean, "std": cfg.std, "input_size": cfg.input_size}
    size = content.get("input_size")
    return OwnImages(int(size[-1]) if size else None, Normalization(tuple(content["mean"]), tuple(content["std"])))
