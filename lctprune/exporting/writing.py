"""Convert a network to the contents of files, compare them with the original, and write them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from lctprune.errors import ExportError
from lctprune.exporting.comparing import Runner, compare, is_sequence
from lctprune.exporting.copying import conversion, copied
from lctprune.exporting.executorch_model import executorch_bytes
from lctprune.exporting.formats import LARGEST_BATCHES, OF_ONE_LENGTH, RUNTIMES, WEIGHTS_SUFFIX, Format, known_format
from lctprune.exporting.inductor_package import compiled_for, package_bytes
from lctprune.exporting.layouts import Laid, in_fastest_layout
from lctprune.exporting.onnx_model import onnx_bytes
from lctprune.exporting.openvino_model import openvino_files
from lctprune.exporting.programs import Program, program_bytes, to_program
from lctprune.exporting.runtimes import opened, torch_module
from lctprune.exporting.torchscript import to_torchscript, torchscript_bytes
from lctprune.utils.files import write_atomically
from lctprune.utils.modules import device_of, full_precision
from lctprune.utils.steps import stepping
from lctprune.utils.tensor_files import tensor_chunks
from lctprune.utils.wrappers import unwrapped


class Converted(NamedTuple):
    """A network as the content of a file.

    Attributes:
        format: file format.
        content: content of the file.
        length: only length of sequences that it takes; None where it takes any, or inputs are no sequences.
        weights: content of the file with the weights that belongs beside it; None where they are inside.
        layout: memory layout in which TorchScript computes on images, contiguous or channels_last; None in all others.
        compiled_for: PyTorch and processor that compiled code is for, see `compiled_for`; None where there is no such
            code.
    """

    format: Format
    content: bytes | memoryview
    length: int | None
    weights: bytes | None = None
    layout: str | None = None
    compiled_for: str | None = None

    @property
    def largest_batch(self) -> int | None:
        """Largest number of samples per call; None where there is none."""
        return LARGEST_BATCHES.get(self.format)


def convert(
    network: nn.Module,
    example: Tensor,
    formats: Sequence[Format],
    *,
    dependence: str | None,
    names: Mapping[str, str] | None = None,
    compared: bool = True,
    timed: Tensor | None = None,
) -> list[Converted]:
    """Convert a network to the contents of files, and compare each with the original.

    Args:
        network: traceable module.
        example: real samples, [batch, ...].
        formats: formats of the files.
        dependence: clause as `batch_dependence` gives it; empty or None where outputs do not depend on the batch.
        names: names of tensors in the format state-dict, by those in the network's state dict; by default the latter.
        compared: whether to compare; otherwise the caller does. A state dict is always compared.
        timed: input, [batch, ...], by calls on which the memory layout of TorchScript is chosen; by default none is.

    Raises:
        ConfigError: a format is unknown, or its extra is not installed.
        ExportError: the network cannot be converted, or gives other outputs when converted.
    """
    formats = [known_format(format) for format in formats]
    network = unwrapped(network)
    example = example.to(device_of(network))
    source = _Source(network, example, formats, timed)
    results = []
    with full_precision(example.device):  # most files compute so
        for format in stepping(formats, lambda each: f"Converting to {each}", count=len(formats)):
            converted, runner = _converted(source, format, names or {})
            if compared or format == "state-dict":
                compare(network, runner, example, dependence=dependence, length=converted.length)
            results.append(converted)
    return results


def converted_and_opened(
    network: nn.Module, example: Tensor, formats: Sequence[Format]
) -> list[tuple[Converted, Runner]]:
    """Convert a network to several formats; return each file's content, and what runs it; what they share is made once.

    Args:
        network: traceable module.
        example: input, [batch, ...].
        formats: formats of files.

    Raises:
        ConfigError: a format is unknown, or its extra is not installed.
        ExportError: the network cannot be converted.
    """
    network = unwrapped(network)
    source = _Source(network, example.to(device_of(network)), [known_format(format) for format in formats])
    return [_converted(source, format, {}) for format in formats]


def write_exported(path: Path, converted: Converted) -> None:
    """Write the content of a file, atomically; before it the file of weights, where there is one.

    Raises:
        ExportError: it cannot be written.
    """
    try:
        if converted.weights is not None:
            write_atomically(path.with_suffix(WEIGHTS_SUFFIX), converted.weights)
        write_atomically(path, converted.content)
    except OSError as error:
        raise ExportError(f"{path} cannot be written ({error.strerror}); choose another place") from error


def size_notes(converted: Sequence[Converted]) -> list[str]:
    """Say which files take batches up to some size only, or sequences of one length only."""
    notes = []
    for each in converted:
        if each.largest_batch:
            notes.append(
                f"the {each.format} file takes up to {each.largest_batch} samples per call: its memory is planned for "
                "so many"
            )
        if each.length:
            whose = "the format" if each.format in OF_ONE_LENGTH else "the network's code"
            notes.append(
                f"the {each.format} file takes sequences of {each.length} steps only: {whose} makes the length a "
                "constant; pad shorter ones with zeros"
            )
    return notes


class _Source:
    """What several formats begin with: the program of pt2 and ONNX, the ONNX model of OpenVINO."""

    def __init__(
        self, network: nn.Module, example: Tensor, formats: Sequence[Format], timed: Tensor | None = None
    ) -> None:
        self.network, self.example, self.timed = network, example, timed
        self.name = ", ".join(each for each in formats if each not in ("torchscript", "state-dict"))  # in messages

    @cached_property
    def program(self) -> Program:
        return to_program(self.network, self.example, name=self.name)

    @cached_property
    def bounded(self) -> Program:
        largest = LARGEST_BATCHES["executorch"]
        return to_program(self.network, self.example, name="executorch", is_fixed=True, largest_batch=largest)

    @cached_property
    def of_one_length(self) -> Program:
        return to_program(
            self.network, self.example, name="aoti", is_fixed=is_sequence(self.example), copies_input=True
        )

    @cached_property
    def onnx(self) -> bytes:
        return onnx_bytes(self.network, self.program)


def _converted(source: _Source, format: Format, names: Mapping[str, str]) -> tuple[Converted, Runner]:
    """Convert to one format; return the content of the file, and what runs it."""
    network = source.network
    if format == "torchscript":
        timed = source.timed
        found = (
            Laid(to_torchscript(network, source.example), None)
            if timed is None
            else in_fastest_layout(network, source.example, timed.to(source.example.device))
        )
        converted = Converted(format, torchscript_bytes(network, found.scripted), None, layout=found.layout)
        return converted, runner_of(converted)
    if format == "state-dict":
        weights, loaded = _weights(network, names)
        return Converted(format, weights, None), loaded
    sources = {"executorch": "bounded", "aoti": "of_one_length"}  # Inductor computes LSTMs of other lengths wrongly
    program: Program = getattr(source, sources.get(format, "program"))
    length = program.length
    if format == "pt2":
        converted = Converted(format, program_bytes(network, program), length)
    elif format == "executorch":
        converted = Converted(format, executorch_bytes(network, program), length)
    elif format == "aoti":
        converted = Converted(format, package_bytes(network, program), length, compiled_for=compiled_for())
    else:
        converted = of_onnx_model(network, source.onnx, format, length)
    with conversion(network, RUNTIMES[format]):  # whatever the runtime has no kernel for
        return converted, runner_of(converted)


def of_onnx_model(network: nn.Module, model: bytes, format: Format, length: int | None) -> Converted:
    """Put an ONNX model into a file of ONNX, or into OpenVINO's pair of files.

    Args:
        network: original, for a message.
        model: content of an .onnx file.
        format: onnx or openvino.
        length: only length of sequences that the model takes; None where it takes any.

    Raises:
        ExportError: OpenVINO has no operation for one in the model.
    """
    if format == "onnx":
        return Converted(format, model, length)
    graph, weights = openvino_files(network, model)
    return Converted(format, graph, length, weights)


def runner_of(converted: Converted) -> Runner:
    """Open the content of a file in its own runtime, on as many threads as PyTorch uses.

    Returns:
        Function from inputs to outputs, tensors [batch, ...]: on the CPU, but for TorchScript on the network's device.
    """
    content = io.BytesIO(converted.content)
    if converted.format == "torchscript":
        scripted = torch_module(converted.format, content)
        return lambda samples: scripted(samples)  # not a module itself, which a network would own
    if converted.format == "pt2":
        program = torch_module(converted.format, content)
        return lambda samples: program(samples.cpu())
    run = opened(converted.format, content, torch.get_num_threads(), weights=converted.weights)
    return lambda samples: torch.from_numpy(run(samples.cpu().numpy()))


def _weights(network: nn.Module, names: Mapping[str, str]) -> tuple[bytes, Runner]:
    """Return the state dict as the content of a safetensors file, and a copy of the network that has loaded it."""
    own = copied(network)
    if own is None:
        raise ExportError(f"{type(network).__name__} cannot be copied, so its weights cannot be checked")
    with conversion(network, "a state dict"):
        tensors = {names.get(name, name): tensor for name, tensor in network.state_dict().items()}
        content = b"".join(bytes(part) for part in tensor_chunks(tensors, {"format": "pt"}))
        read = safetensors.torch.load(content)
        with torch.no_grad():
            for tensor in own.state_dict().values():
                tensor.zero_()
        own.load_state_dict({name: read[names.get(name, name)] for name in network.state_dict()})
    return content, own.eval()
