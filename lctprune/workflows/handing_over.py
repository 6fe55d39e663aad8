"""Export a network from a program, with a model card that says how to feed it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lctprune.config.data import DataConfig
from lctprune.config.network import NetworkConfig
from lctprune.data.dataset import Data, data_record
from lctprune.exporting import writing
from lctprune.exporting.formats import Format
from lctprune.models.build import fitted
from lctprune.utils.environment import environment
from lctprune.utils.files import sha256, write_json
from lctprune.workflows.model_card import MODEL_CARD, input_record, output_record


def export(
    network: nn.Module,
    example: Tensor,
    path: str | Path,
    *,
    format: Format = "torchscript",
    data: Data | None = None,
    **options: Any,
) -> Path:
    """Export a network to a file that runs without lctprune; with `data`, write model.json beside it.

    Args:
        network: network, such as `network.subnetwork(k)`.
        example: input, [batch, ...], preprocessed as the network expects it; better more than one sample.
        path: output file; an existing file is replaced.
        format: torchscript (the default), pt2 (of torch.export), onnx (needs the extra `onnx`), or state-dict (the
            weights as safetensors).
        data: data that it was trained on: model.json then says how to feed the file and what its outputs mean (shape,
            preprocessing, mean and deviation, classes or vocabulary).
        options: further arguments of `lctprune.exporting.writing.export`.

    Returns:
        The path.

    Raises:
        ConfigError: the format is unknown, or its extra is not installed.
        ExportError: the network cannot be converted, gives other outputs when converted, or cannot be written.

    Warns:
        NetworkWarning: the network's outputs depend on the rest of the batch, or the file takes sequences of one length
            only.
    """
    path = writing.export(network, example, path, format=format, **options)
    if data is not None:
        described = data if data.config else dataclasses.replace(data, config=DataConfig())  # for its maximum length
        record, recipe = data_record(described), fitted(NetworkConfig(), data)
        assert record is not None  # it has settings
        card = {
            "file": path.name,
            "format": format,
            "sha256": sha256(path),
            "classes": list(data.classes),
            "input": input_record(recipe, record),
            "output": output_record(recipe, record),
        }
        write_json(path.parent / MODEL_CARD, {**card, **environment()})
    return path
