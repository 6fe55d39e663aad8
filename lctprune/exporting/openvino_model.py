"""Convert an ONNX model to OpenVINO's own pair of files: by OpenVINO's own reader, in 8-bit integers by NNCF."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lctprune.exporting.copying import conversion, quiet

if TYPE_CHECKING:
    import openvino

UNREPORTED = "NNCF_CI"  # variable of the environment with which NNCF reports nothing


def openvino_files(network: nn.Module, model: bytes) -> tuple[bytes, bytes]:
    """Return the contents of an .xml file, the graph, and of the .bin file beside it, the weights in full precision.

    Reading ONNX loads nothing of OpenVINO's converters, which report their use to its makers.

    Args:
        network: original, for a message.
        model: content of an .onnx file.

    Raises:
        ExportError: OpenVINO has no operation for one in the model.
    """
    with conversion(network, "OpenVINO"):
        return _saved(_read(model))


def openvino_int8_files(network: nn.Module, model: bytes, calibration: Sequence[Tensor]) -> tuple[bytes, bytes]:
    """Return such contents in 8-bit integers: weights per channel, activations between their extremes on samples.

    Activations have 8 bits, with a zero point where they have both signs. Weights have 7, since products of 8 bits
    overflow on CPUs without VNNI instructions, see `quantized`.

    Args:
        network: original, for a message.
        model: content of an .onnx file in full precision.
        calibration: batches of samples of training, [batch, ...] each.

    Raises:
        ExportError: OpenVINO has no operation for one in the model, or NNCF cannot quantize it.
    """
    with conversion(network, "int8"), quiet():
        nncf = _nncf()
        advanced = nncf.quantization.advanced_parameters
        ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
        quantized = nncf.quantize(
            _read(model),
            nncf.Dataset([batch.cpu().numpy() for batch in calibration]),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(calibration),
            advanced_parameters=advanced.AdvancedQuantizationParameters(
                overflow_fix=advanced.OverflowFix.ENABLE, activations_range_estimator_params=ranges
            ),
        )
        return _saved(quantized)


def _nncf() -> Any:
    """Import NNCF, which by default reports its use to its makers, without that."""
    before = os.environ.get(UNREPORTED)
    os.environ[UNREPORTED] = "1"
    try:
        import nncf
        import nncf.quantization.advanced_parameters
        import nncf.quantization.range_estimator
    finally:
        if before is None:
            del os.environ[UNREPORTED]
        else:
            os.environ[UNREPORTED] = before
    return nncf


def _read(model: bytes) -> openvino.Model:
    import openvino

    read = openvino.Core().read_model(model=model)
    for operation in read.get_ops():
        # linear modes do not smooth what they make smaller, whatever they are told
        if operation.get_type_name() == "Interpolate" and operation.get_attributes()["antialias"]:
            operation.set_attribute("mode", "bilinear_pillow")
            operation.set_attribute("antialias", False)
    return read


def _saved(model: openvino.Model) -> tuple[bytes, bytes]:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)  # by default it halves the weights
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()
