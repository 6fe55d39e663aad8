"""Export a network to a file that runs without lctprune: convert it, compare it with the original, write the file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from lctprune.errors import ConfigError, ExportError, NetworkWarning
from lctprune.exporting.comparing import Runner, compare, several
from lctprune.exporting.copying import conversion, copied
from lctprune.exporting.formats import RUNTIMES, SUFFIXES, WEIGHTS_SUFFIX, Format, known_format
from lctprune.exporting.onnx_model import onnx_bytes
from lctprune.exporting.openvino_model import openvino_files
from lctprune.exporting.programs import Program, program_bytes, to_program
from lctprune.exporting.runtimes import ArrayRunner, opened, torch_module
from lctprune.exporting.torchscript import to_torchscript, torchscript_bytes
from lctprune.utils.batches import CAUSES, batch_dependence
from lctprune.utils.files import write_atomically
from lctprune.utils.modules import device_of, evaluation_mode
from lctprune.utils.tensor_files import tensor_chunks
from lctprune.utils.wrappers import unwrapped


class Converted(NamedTuple):
    """A network as the content of a file.

    Attributes:
        format: file format.
        content: content of the file.
        length: only length of sequences that it takes; None where it takes any, or inputs are no sequences.
        weights: content of the file with the weights that belongs beside it; None where they are inside.
    """

    format: Format
    content: bytes | memoryview
    length: int | None
    weights: bytes | None = None


def export(network: nn.Module, example: Tensor, path: str | Path, *, format: Format = "torchscript") -> Path:
    """Write a network to a file, after comparing the converted network with the original.

    The content of the file is opened again, and compared on batches of 1, 3 and 64 samples, on some samples one by one,
    and on sequences cut to half their length where the network takes them, so that a batch size, a length or a branch
    frozen into the file is found. The file appears whole or not at all.

    Args:
        network: traceable module, such as `LocalCriticNetwork.subnetwork(k)`; it stays as it is, in its own type.
        example: real samples, [batch, ...], preprocessed as the network expects them; better more than one.
        path: output file; an existing file is replaced. OpenVINO's ends in .xml, and the weights stand beside it, in
            a file that ends in .bin.
        format: torchscript (the default), pt2 (of torch.export), onnx, openvino, or state-dict (the weights as
            safetensors).

    Returns:
        The path.

    Raises:
        ConfigError: the format is unknown, its extra is not installed, or an OpenVINO file does not end in .xml.
        ExportError: the network cannot be converted, gives other outputs when converted, or cannot be written.

    Warns:
        NetworkWarning: the network's outputs depend on the rest of the batch, or the file takes sequences of one length
            only.
    """
    known_format(format)
    if format == "openvino" and Path(path).suffix != SUFFIXES[format]:
        raise ConfigError(f"{path} does not end in .xml, by which OpenVINO finds the weights beside it; name it so")
    with conversion(network), evaluation_mode(network), torch.no_grad():
        dependence = batch_dependence(unwrapped(network), several(example).to(device_of(network)))
    (converted,) = convert(network, example, [format], dependence=dependence)
    write_exported(Path(path), converted)
    for note in length_notes([converted]):
        warnings.warn(note, NetworkWarning, stacklevel=2)
    if dependence:
        warnings.warn(
            f"the exported network {dependence}: its accuracy in batches says nothing of single samples ({CAUSES})",
            NetworkWarning,
            stacklevel=2,
        )
    return Path(path)


def convert(
    network: nn.Module,
    example: Tensor,
    formats: Sequence[Format],
    *,
    dependence: str | None,
    names: Mapping[str, str] | None = None,
    compared: bool = True,
) -> list[Converted]:
    """Convert a network to the contents of files, and compare each with the original.

    Args:
        network: traceable module.
        example: real samples, [batch, ...].
        formats: formats of the files.
        dependence: clause as `batch_dependence` gives it; empty or None where outputs do not depend on the batch.
        names: names of tensors in the format state-dict, by those in the network's state dict; by default the latter.
        compared: whether to compare; otherwise the caller does. A state dict is always compared.

    Raises:
        ConfigError: a format is unknown, or its extra is not installed.
        ExportError: the network cannot be converted, or gives other outputs when converted.
    """
    formats = [known_format(format) for format in formats]
    network = unwrapped(network)
    example = example.to(device_of(network))
    source = _Source(network, example, formats)
    results = []
    for format in formats:
        converted, runner = _converted(source, format, names or {})
        if compared or format == "state-dict":
            compare(network, runner, example, dependence=dependence, length=converted.length)
        results.append(converted)
    return results


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


def length_notes(converted: Sequence[Converted]) -> list[str]:
    """Say which files take sequences of one length only."""
    return [
        f"the {each.format} file takes sequences of {each.length} steps only: the network's code makes the length a "
        "constant; pad shorter ones with zeros"
        for each in converted
        if each.length
    ]


class _Source:
    """What several formats begin with: the program of pt2 and ONNX, the ONNX model of OpenVINO."""

    def __init__(self, network: nn.Module, example: Tensor, formats: Sequence[Format]) -> None:
        self.network, self.example = network, example
        self.name = ", ".join(each for each in formats if each not in ("torchscript", "state-dict"))  # in messages

    @cached_property
    def program(self) -> Program:
        return to_program(self.network, self.example, name=self.name)

    @cached_property
    def onnx(self) -> bytes:
        return onnx_bytes(self.network, self.program)


def _converted(source: _Source, format: Format, names: Mapping[str, str]) -> tuple[Converted, Runner]:
    """Convert to one format; return the content of the file, and what runs it."""
    network = source.network
    if format == "torchscript":
        scripted = torchscript_bytes(network, to_torchscript(network, source.example))
        return Converted(format, scripted, None), torch_module(format, io.BytesIO(scripted))
    if format == "state-dict":
        weights, loaded = _weights(network, names)
        return Converted(format, weights, None), loaded
    length = source.program.length
    if format == "pt2":
        exported = program_bytes(network, source.program)
        return Converted(format, exported, length), _on_cpu(torch_module(format, io.BytesIO(exported)))
    converted = of_onnx_model(network, source.onnx, format, length)
    with conversion(network, RUNTIMES[format]):  # whatever the runtime has no kernel for
        run = runner_of(converted)
    return converted, _on_cpu(lambda samples: torch.from_numpy(run(samples.numpy())))


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


def runner_of(converted: Converted) -> ArrayRunner:
    """Open the content of a file in its own runtime, on as many threads as PyTorch uses."""
    return opened(converted.format, io.BytesIO(converted.content), torch.get_num_threads(), weights=converted.weights)


def _on_cpu(run: Callable[[Tensor], Tensor]) -> Runner:
    return lambda samples: run(samples.cpu())


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
