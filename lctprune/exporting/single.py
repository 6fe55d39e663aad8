"""Export a network to a file that runs without lctprune: convert it, compare it with the original, write the file."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from lctprune.config.runtime import FULL, Precision
from lctprune.errors import ConfigError, NetworkWarning
from lctprune.exporting.comparing import compared_batches, several
from lctprune.exporting.copying import conversion
from lctprune.exporting.formats import SUFFIXES, Format, known_format
from lctprune.exporting.preprocessing import FromPixels
from lctprune.exporting.reducing import reduced, require_alike, require_precision
from lctprune.exporting.writing import Converted, convert, size_notes, write_exported
from lctprune.utils.batches import CAUSES, batch_dependence
from lctprune.utils.modules import device_of, evaluation_mode
from lctprune.utils.wrappers import unwrapped


def export(
    network: nn.Module,
    example: Tensor,
    path: str | Path,
    *,
    format: Format = "torchscript",
    precision: Precision = FULL,
    calibration: Tensor | None = None,
) -> Converted:
    """Write a network to a file, after comparing the converted network with the original.

    The content of the file is opened again, and compared on batches of 1, 3 and 64 samples, on some samples one by one,
    and on sequences cut to half their length where the network takes them, so that a batch size, a length or a branch
    frozen into the file is found. The file appears whole or not at all.

    Args:
        network: traceable module, such as `LocalCriticNetwork.subnetwork(k)`; it stays as it is, in its own type.
        example: real samples, [batch, ...], preprocessed as the network expects them; better more than one.
        path: output file; an existing file is replaced. OpenVINO's ends in .xml, and the weights stand beside it, in
            a file that ends in .bin.
        format: torchscript (the default), pt2 (of torch.export), onnx, openvino, executorch (up to 64 samples per
            call, sequences of the example's length), aoti (compiled by Inductor for this machine, sequences of that
            length: see `lctprune.exporting.inductor_package`), or state-dict (the weights as safetensors).
        precision: fp32 for the network's own type; int8 (onnx, openvino), bf16 or fp16 (these, torchscript and
            pt2). Outputs in 16 bits may differ by rounding; int8 is not compared: measure its accuracy.
        calibration: samples of training, some hundred, on which int8 is calibrated; by default the example.

    Returns:
        What was written.

    Raises:
        ConfigError: the format is unknown, its extra is not installed, it does not have the precision, or an OpenVINO
            file does not end in .xml.
        ExportError: the network cannot be converted, gives other outputs when converted, or cannot be written.

    Warns:
        NetworkWarning: the network's outputs depend on the rest of the batch, or the file takes sequences of one length
            or batches up to some size only.
    """
    known_format(format)
    require_precision([format], precision, with_preprocessing=isinstance(network, FromPixels))
    if format == "openvino" and Path(path).suffix != SUFFIXES[format]:
        raise ConfigError(f"{path} does not end in .xml, by which OpenVINO finds the weights beside it; name it so")
    with conversion(network), evaluation_mode(network), torch.no_grad():
        dependence = batch_dependence(unwrapped(network), several(example).to(device_of(network)))
    if precision == FULL:
        (converted,) = convert(network, example, [format], dependence=dependence)
    else:
        converted = _reduced(network, example, format, precision, calibration, dependence)
    write_exported(Path(path), converted)
    for note in size_notes([converted]):
        warnings.warn(note, NetworkWarning, stacklevel=2)
    if dependence:
        warnings.warn(
            f"the exported network {dependence}: its accuracy in batches says nothing of single samples ({CAUSES})",
            NetworkWarning,
            stacklevel=2,
        )
    return converted


def _reduced(
    network: nn.Module,
    example: Tensor,
    format: Format,
    precision: Precision,
    calibration: Tensor | None,
    dependence: str | None,
) -> Converted:
    """Convert a network in a reduced precision, and compare the file with the original."""
    example = example.to(device_of(network))
    form = reduced(network, example if calibration is None else calibration, format, precision)
    for samples in compared_batches(form.original, example, dependence=dependence, length=form.converted.length):
        with torch.no_grad():
            require_alike(form(samples), samples, form.original, precision)
    return form.converted
