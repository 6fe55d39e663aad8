"""Export a network from a program, with a model card that says how to feed it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lctprune.config.data import DataConfig
from lctprune.config.network import NetworkConfig
from lctprune.config.run import DataRecord, StatisticsRecord
from lctprune.config.runtime import FULL, Precision
from lctprune.data.dataset import Data, data_record
from lctprune.errors import ConfigError
from lctprune.exporting import single
from lctprune.exporting.formats import Format
from lctprune.measure.candidates import precision_of
from lctprune.measure.reduced import calibration_samples
from lctprune.measure.target_kinds import is_label
from lctprune.models.build import fitted_settings
from lctprune.utils.environment import environment
from lctprune.utils.files import write_json
from lctprune.utils.modules import device_of, evaluation_mode
from lctprune.utils.wrappers import unwrapped
from lctprune.workflows.exported_files import file_record
from lctprune.workflows.from_pixels import from_pixels, pixel_records, pixels_of
from lctprune.workflows.model_card import MODEL_CARD, input_record, output_record


def export(
    network: nn.Module,
    example: Tensor,
    path: str | Path,
    *,
    format: Format = "torchscript",
    data: Data | None = None,
    with_preprocessing: bool = False,
    precision: Precision = FULL,
    **options: Any,
) -> Path:
    """Export a network to a file that runs without lctprune; with `data`, write model.json beside it.

    Args:
        network: network, such as `network.subnetwork(k)`.
        example: input, [batch, ...], preprocessed as the network expects it; better more than one sample.
        path: output file; an existing file is replaced.
        format: torchscript (the default), pt2 (of torch.export), onnx (needs the extra `onnx`), openvino, executorch
            (the extras of these names), aoti (compiled by Inductor) or state-dict (the weights as safetensors).
        data: data that it was trained on: model.json then says how to feed the file and what its outputs mean (shape,
            preprocessing, mean and deviation, classes or vocabulary).
        with_preprocessing: whether the file takes uint8 images of any size, [batch, height, width, channels], and gives
            probabilities, or numbers in their units; it needs `data`.
        precision: fp32 for the network's own type, int8 (onnx, openvino), bf16 or fp16 (these, torchscript and
            pt2); int8 is calibrated on training samples of `data`, or without it on the example.
        options: further arguments of `lctprune.exporting.single.export`.

    Returns:
        The path.

    Raises:
        ConfigError: the format is unknown, its extra is not installed, or it does not have the precision; or
            `with_preprocessing`, and inputs are no images, `data` is missing, or the precision is int8.
        ExportError: the network cannot be converted, gives other outputs when converted, or cannot be written.

    Warns:
        NetworkWarning: the network's outputs depend on the rest of the batch, or the file takes sequences of one length
            only.
    """
    if with_preprocessing and (data is None or format == "state-dict"):
        missing = "data=, which says how images were prepared" if data is None else "a format that holds operations"
        raise ConfigError(f"with_preprocessing needs {missing}")
    path = Path(path)
    if data is None:
        single.export(network, example, path, format=format, precision=precision, **options)
        return path
    record = _recorded(data)
    recipe = NetworkConfig(**fitted_settings(data))
    described = {"input": input_record(recipe, record), "output": output_record(recipe, record)}
    with evaluation_mode(network):
        if with_preprocessing:
            plain = unwrapped(network)
            wrapped = from_pixels(plain, record, example, has_labels=_has_labels(data)).to(device_of(plain))
            network, example = wrapped, pixels_of(example.cpu(), record)
            described = pixel_records(wrapped, described)
        if precision == "int8":
            options = {"calibration": calibration_samples(data.train), **options}
        converted = single.export(network, example, path, format=format, precision=precision, **options)
    file = file_record(converted, path, precision_of(network) if precision == FULL else precision)
    card = {
        **{name: file[name] for name in ("file", "format", "sha256", "precision")},
        "files": [file],
        "classes": list(data.classes),
    }
    write_json(path.parent / MODEL_CARD, {**card, **described, **environment()})
    return path


def _recorded(data: Data) -> DataRecord:
    """Record the data, also of a program's own; numbers that were not standardised have a mean of 0."""
    record = data_record(data if data.config else dataclasses.replace(data, config=DataConfig()))  # its maximum length
    assert record is not None  # it has settings
    if data.classes or record.target is not None:
        return record
    targets = data.val.targets
    if targets.is_floating_point() and not _has_labels(data):
        count = targets[0].numel()
        record = dataclasses.replace(record, target=StatisticsRecord(mean=(0.0,) * count, std=(1.0,) * count))
    return record


def _has_labels(data: Data) -> bool:
    """Tell whether targets are labels that do not exclude each other: 0 or 1 for each output."""
    targets = data.val.targets
    return targets.is_floating_point() and targets.dim() == 2 and bool(is_label(targets).all())
