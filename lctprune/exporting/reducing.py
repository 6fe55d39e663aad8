"""Reduce the precision of a network after training: its file, and the network that answers as the file does."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lctprune.config.runtime import Precision, parse_precisions
from lctprune.errors import ConfigError, ExportError
from lctprune.exporting.comparing import repeated, several
from lctprune.exporting.copying import conversion, copied
from lctprune.exporting.formats import FORMATS, RUNTIMES, Format, known_format, require_extra
from lctprune.exporting.preprocessing import FromPixels
from lctprune.exporting.quantizing import CALIBRATION_BATCH, OnnxModels, quantized, tensor_bytes
from lctprune.exporting.writing import Converted, convert, of_onnx_model, runner_of
from lctprune.utils.modules import device_of, evaluation_mode, stored_bytes
from lctprune.utils.steps import stepping
from lctprune.utils.wrappers import unwrapped

if TYPE_CHECKING:
    import onnx

HALF: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS_OF: dict[Precision, tuple[Format, ...]] = {  # that have a reduced precision
    "int8": ("onnx", "openvino"),
    "bf16": ("torchscript", "pt2", "onnx", "openvino"),
    "fp16": ("torchscript", "pt2", "onnx", "openvino"),
}
SMALLEST = 16  # numbers in a tensor of weights that is stored in 16 bits
ROUNDINGS = 32  # steps of the type by which outputs may differ, relative to the largest


class ReducedNetwork(nn.Module):
    """A network in a reduced precision: its outputs are those of its file, in the file's runtime.

    Args:
        original: network in full precision.
        precision: int8, bf16 or fp16.
        converted: content of the file.
        size_bytes: size of the tensors in the file, in bytes.
    """

    def __init__(self, original: nn.Module, precision: Precision, converted: Converted, size_bytes: int) -> None:
        super().__init__()
        self.original, self.precision = original, precision
        self.converted, self.size_bytes = converted, size_bytes
        self.run, self.device = runner_of(converted), device_of(original)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the file on inputs, [batch, ...]."""
        return self.run(inputs.to(self.device)).to(inputs.device)


class HalfNetwork(nn.Module):
    """A network whose weights and computation are of 16 bits; its inputs and outputs stay as they were.

    Args:
        network: network, of which a copy is taken.
        dtype: torch.bfloat16 or torch.float16.

    Raises:
        ExportError: the network cannot be copied, or computes in complex numbers.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        tensors = [*network.parameters(), *network.buffers()]
        own = copied(network)
        if own is None or any(each.is_complex() for each in tensors):
            problem = "cannot be copied" if own is None else "has complex weights"
            raise ExportError(f"{network.__class__.__name__} {problem}, so it has no form of 16 bits")
        self.network, self.dtype = own.to(dtype), dtype
        self.given = next((each.dtype for each in tensors if each.is_floating_point()), torch.float32)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute outputs, [batch, ...]."""
        outputs: Tensor = self.network(inputs.to(self.dtype) if inputs.is_floating_point() else inputs)
        return outputs.to(self.given)


def in_half(network: nn.Module, precision: Precision) -> nn.Module:
    """Return a copy of a network in 16 bits; of one with its preprocessing, the preprocessing stays in full precision.

    Raises:
        ExportError: it has no such form.
    """
    if isinstance(network, FromPixels):
        pixels = copy.copy(network)
        pixels._modules = {**network._modules, "network": HalfNetwork(network.network, HALF[precision])}
        return pixels
    return HalfNetwork(network, HALF[precision]).train(network.training)


def reduced(
    network: nn.Module,
    samples: Tensor,
    format: Format,
    precision: Precision,
    *,
    latency_batch: int = 1,
    models: OnnxModels | None = None,
) -> ReducedNetwork:
    """Reduce the precision of a network to that of a file, and run the file once.

    Args:
        network: traceable module; for 8-bit integers on the CPU.
        samples: samples of training, [n, ...], on which 8-bit integers are calibrated.
        format: format of the file, one of `FORMATS_OF` the precision.
        precision: int8, bf16 or fp16.
        latency_batch: samples per call for which the memory layout of TorchScript is chosen.
        models: ONNX models of the network, where several of its files are made; by default they are made here.

    Raises:
        ConfigError: the format does not have the precision, or an extra is not installed.
        ExportError: the network cannot be converted, or its runtime cannot run the file.
    """
    require_precision([format], precision)
    network = unwrapped(network)
    models = models or OnnxModels(network, samples)
    if precision == "int8":
        converted, size = quantized(models, format)
    elif format in ("onnx", "openvino"):
        full = models.full
        with conversion(network, precision):
            model = with_half_weights(bytes(full.content), precision)
        converted, size = of_onnx_model(network, model.SerializeToString(), format, full.length), tensor_bytes(model)
    else:
        with conversion(network, precision), evaluation_mode(network):
            half = in_half(network, precision)
        timed = repeated(samples[:1], latency_batch)
        first = samples[:CALIBRATION_BATCH]
        (converted,) = convert(half, first, [format], dependence=None, compared=False, timed=timed)
        size = stored_bytes(half)
    with conversion(network, f"{precision} in {RUNTIMES[format]}"), torch.no_grad():
        found = ReducedNetwork(network, precision, converted, size)
        found(several(samples[:3]).to(device_of(network)))
    return found


def with_half_weights(content: bytes, precision: Precision) -> onnx.ModelProto:
    """Round the weights of an ONNX model to 16 bits, which its runtime computes with in float32.

    For CPUs ONNX Runtime has few operations in 16 bits, and OpenVINO's reader of ONNX no convolution in bfloat16.

    Args:
        content: content of an .onnx file.
        precision: bf16 or fp16.
    """
    import onnx

    model = onnx.load_from_string(content)
    stored = onnx.TensorProto.BFLOAT16 if precision == "bf16" else onnx.TensorProto.FLOAT16
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1 and math.prod(tensor.dims) >= SMALLEST:
            values = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()).to(HALF[precision])
            name = tensor.name
            tensor.Clear()
            tensor.name, tensor.data_type = f"{name}.{precision}", stored
            tensor.dims.extend(values.shape)
            tensor.raw_data = values.view(torch.int16).numpy().tobytes()
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def in_precision(
    network: nn.Module, samples: Tensor, formats: Sequence[Format], precision: str, *, latency_batch: int
) -> list[ReducedNetwork]:
    """Reduce the precision of a network for each of several formats, see `reduced`."""
    (known,) = parse_precisions(precision)
    options: dict[str, Any] = {"latency_batch": latency_batch, "models": OnnxModels(unwrapped(network), samples)}
    described = stepping(formats, lambda format: f"Converting to {known} for {RUNTIMES[format]}", count=len(formats))
    return [reduced(network, samples, format, known, **options) for format in described]


def require_precision(formats: Sequence[Format], precision: str, *, with_preprocessing: bool = False) -> None:
    """Require formats that have a precision, and their extras.

    Raises:
        ConfigError: there is no such precision; a format does not have it, or is not installed; or preprocessing
            belongs into an int8 file, or one of executorch.
    """
    if with_preprocessing and precision == "int8":
        raise ConfigError("int8 files take normalised images, and no pixels; leave out `with_preprocessing`")
    if with_preprocessing and "executorch" in formats:
        raise ConfigError(
            "executorch files plan their memory for images of one size, so they take normalised images, and no pixels; "
            "leave out `with_preprocessing`, or the format executorch"
        )
    able = next((FORMATS_OF[each] for each in parse_precisions(precision)), FORMATS)
    for format in formats:
        if format not in able:
            raise ConfigError(f"format {format} has no {precision}; formats that do: {', '.join(able)}")
        known_format(format)
        require_extra(format, quantizes=precision == "int8")


def require_alike(outputs: Tensor, samples: Tensor, network: nn.Module, precision: Precision) -> None:
    """Require outputs of a file in 16 bits that differ from the network's by rounding.

    They may differ by `ROUNDINGS` steps of the type, relative to the largest output, or by twice as much as those of
    PyTorch's own computation in that type. Nothing is required of 8-bit integers, of which accuracy is measured.

    Args:
        outputs: outputs of the file, [batch, ...].
        samples: inputs, [batch, ...].
        network: network in full precision.
        precision: precision of the file.

    Raises:
        ExportError: they differ by more.
    """
    if precision not in HALF:
        return
    with evaluation_mode(network), torch.no_grad():
        expected = network(samples)
        own = in_half(network, precision).eval()(samples)
    steps = ROUNDINGS * torch.finfo(HALF[precision]).eps * float(expected.abs().nan_to_num().max())
    apart = float((outputs.to(expected) - expected).abs().nan_to_num(torch.inf, torch.inf).max())
    allowed = max(steps, 2 * float((own - expected).abs().nan_to_num(0.0, 0.0).max()))
    if expected.isfinite().all() and not apart <= allowed:
        raise ExportError(
            f"the {precision} file differs from the network by up to {apart:.3g} (largest allowed: {allowed:.3g}) on "
            f"inputs of shape {list(samples.shape)}; nothing was written: take another precision"
        )
