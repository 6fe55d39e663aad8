"""Quantize a network to 8-bit integers after training, by the library of the runtime: weights per channel."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lctprune.exporting.copying import conversion, quiet
from lctprune.exporting.formats import Format, require_extra
from lctprune.exporting.onnx_model import INPUT
from lctprune.exporting.openvino_model import openvino_int8_files
from lctprune.exporting.writing import Converted, convert

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

CALIBRATION_SAMPLES = 256
CALIBRATION_BATCH = 32


class OnnxModels:
    """The ONNX models of a network that its files in reduced precisions are made of; that in full is made once.

    Args:
        network: traceable module.
        samples: samples of training, [n, ...], on which 8-bit integers are calibrated.
    """

    def __init__(self, network: nn.Module, samples: Tensor) -> None:
        self.network, self.samples = network, samples

    @cached_property
    def full(self) -> Converted:
        """The network in full precision.

        Raises:
            ConfigError: an extra is not installed.
            ExportError: the network cannot be converted.
        """
        first = self.samples[:CALIBRATION_BATCH]
        (converted,) = convert(self.network, first, ["onnx"], dependence=None, compared=False)
        return converted

    @property
    def int8(self) -> onnx.ModelProto:
        """The network in 8-bit integers, see `quantized`."""
        require_extra("onnx")
        content = bytes(self.full.content)
        with conversion(self.network, "int8"), quiet(), tempfile.TemporaryDirectory() as folder:
            return _quantized_model(content, self.samples, Path(folder))


def quantized(models: OnnxModels, format: Format) -> tuple[Converted, int]:
    """Quantize a network to 8-bit integers; return the content of its file, and the bytes of the tensors in it.

    ONNX Runtime's own library does it for ONNX Runtime, NNCF for OpenVINO. Activations are of 8 bits, with the smallest
    and the largest value that they take on the calibration samples. Weights have a sign, a scale for each output
    channel, and 7 bits: on CPUs without VNNI instructions both runtimes add products in 16 bits, which those of 8 bits
    overflow (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). Layers without a form in
    integers, such as LSTM, stay in full precision.

    Args:
        models: ONNX models of the network, which is on the CPU.
        format: format of the file: onnx or openvino.

    Raises:
        ConfigError: an extra is not installed.
        ExportError: the network cannot be converted.
    """
    require_extra(format, quantizes=True)
    if format == "openvino":
        batches = torch.split(models.samples, CALIBRATION_BATCH)
        graph, weights = openvino_int8_files(models.network, bytes(models.full.content), batches)
        return Converted(format, graph, models.full.length, weights), len(weights)
    model = models.int8
    return Converted(format, model.SerializeToString(), models.full.length), tensor_bytes(model)


def _quantized_model(content: bytes, calibration: Tensor, folder: Path) -> onnx.ModelProto:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    path = folder / "int8.onnx"
    quantize_static(
        _folded(content, folder),
        path,
        _Batches(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,  # 7 bits
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return onnx.load(path)


def _folded(content: bytes, folder: Path) -> onnx.ModelProto:
    """Fold batch norm into convolutions, and constants, as long as weights are numbers of full precision."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # ONNX's own operations only
    options.optimized_model_filepath = str(folder / "folded.onnx")
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "folded.onnx")


class _Batches:
    """Calibration samples in batches, as ONNX Runtime asks for them."""

    def __init__(self, samples: Tensor) -> None:
        self._batches: Iterator[NDArray[Any]] = (
            batch.cpu().numpy() for batch in torch.split(samples, CALIBRATION_BATCH)
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def tensor_bytes(model: onnx.ModelProto) -> int:
    """Count the bytes of the tensors in an ONNX model."""
    from onnx import numpy_helper

    return sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
