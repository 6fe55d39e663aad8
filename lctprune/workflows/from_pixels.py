"""Export networks for images together with their preprocessing: what goes into the file, and what the card says."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.config.images import ImagePreprocessing
from lctprune.config.run import DataRecord
from lctprune.errors import ConfigError
from lctprune.exporting.preprocessing import FromPixels, Meaning
from lctprune.workflows.exported_files import Checked
from lctprune.workflows.model_card import image_words


def from_pixels(network: nn.Module, record: DataRecord | None, example: Tensor, *, has_labels: bool) -> FromPixels:
    """Wrap a network for images, so that it takes pixels and gives what outputs mean.

    Args:
        network: network for normalised images.
        record: data that it was trained on.
        example: input of the network, [batch, channels, size, size].
        has_labels: whether outputs are of labels that do not exclude each other.

    Raises:
        ConfigError: its inputs are no images, or the data is not recorded.
    """
    if record is None or example.dim() != 4 or not example.is_floating_point() or not record.mean:
        raise ConfigError(
            f"preprocessing can be exported for images only; this network takes inputs of shape "
            f"{list(example.shape[1:])} ({str(example.dtype).removeprefix('torch.')}): leave out `with_preprocessing`"
        )
    steps, target = record.preprocessing or ImagePreprocessing.of(example.shape[-1]), record.target
    meaning: Meaning = "probabilities" if target is None else "values"
    if has_labels and target is None:
        meaning = "independent probabilities"
    statistics = {} if target is None else {"target_mean": target.mean, "target_std": target.std}
    return FromPixels(network, steps, record.mean, record.std, meaning=meaning, **statistics).eval()


def pixels_of(samples: Tensor, record: DataRecord) -> Tensor:
    """Return the uint8 pixels, channels last, that images [batch, channels, height, width] were normalised from."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (record.mean, record.std))
    return ((samples * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def doubled(pixels: Tensor) -> Tensor:
    """Return images of twice the sides, [batch, 2 * height, 2 * width, channels], which files have to make smaller."""
    return pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)


def logits_of(outputs: Tensor, wrapped: FromPixels) -> Tensor:
    """Return the network's own outputs from those of the file, as metrics take them."""
    if wrapped.meaning == "values":
        return (outputs - wrapped.target_mean) / wrapped.target_std
    return outputs.log() if wrapped.meaning == "probabilities" else outputs.logit()


def with_pixels(
    network: nn.Module, record: DataRecord | None, checked: Checked, described: dict[str, Any]
) -> tuple[FromPixels, Checked, dict[str, Any]]:
    """Return what is exported, compared and said of a network with its preprocessing, in place of the network's own.

    Args:
        network: network for normalised images.
        record: data that it was trained on.
        checked: what the network's own files are compared on.
        described: model card of the network.

    Raises:
        ConfigError: its inputs are no images, or the data is not recorded.
    """
    wrapped = from_pixels(network, record, checked.samples, has_labels=checked.all_targets.is_floating_point())
    assert record is not None  # or it was refused
    return (
        wrapped,
        dataclasses.replace(
            checked,
            samples=doubled(pixels_of(checked.samples, record)),
            logits=functools.partial(logits_of, wrapped=wrapped),
        ),
        described | pixel_records(wrapped, described),
    )


def pixel_records(wrapped: FromPixels, given: dict[str, Any]) -> dict[str, Any]:
    """Return `input` and `output` of a model card for a file with its preprocessing inside.

    Args:
        wrapped: what was exported.
        given: model card of the network itself.
    """
    of_network, output = given["input"], given["output"]
    before, inside = image_words(wrapped.preprocessing)
    kept = ("channels", "orientation", "values", "background")
    meanings = {
        "probabilities": "one probability per class; they add up to 1",
        "independent probabilities": "one probability per label",
        "values": "the predicted numbers, in the units of the data",
    }
    return {
        "input": {
            "shape": ["batch", "height", "width", of_network["shape"][1]],
            "dtype": "uint8",
            "preprocessing": before,
            "inside_the_file": inside,
            **{name: of_network[name] for name in kept},
        },
        "output": {"shape": output["shape"], "meaning": meanings[wrapped.meaning]},
    }
