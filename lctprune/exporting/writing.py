"""Export a network to a file that runs without lctprune: convert it, compare it with the original, write the file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from lctprune.errors import ExportError, NetworkWarning
from lctprune.exporting.comparing import Runner, compare, several
from lctprune.exporting.copying import conversion, copied
from lctprune.exporting.formats import Format, known_format
from lctprune.exporting.onnx_model import onnx_bytes
from lctprune.exporting.programs import Program, program_bytes, to_program
from lctprune.exporting.runtimes import opened, torch_module
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
    """

    format: Format
    content: bytes | memoryview
    length: int | None


def export(network: nn.Module, example: Tensor, path: str | Path, *, format: Format = "torchscript") -> Path:
    """Write a network to a file, after comparing the converted network with the original.

    The content of the file is opened again, and compared on batches of 1, 3 and 64 samples, on some samples one by one,
    and on sequences cut to half their length where the network takes them, so that a batch size, a length or a branch
    frozen into the file is found. The file appears whole or not at all.

    Args:
        network: traceable module, such as `LocalCriticNetwork.subnetwork(k)`; it stays as it is, in its own type.
        example: real samples, [batch, ...], preprocessed as the network expects them; better more than one.
        path: output file; an existing file is replaced.
        format: torchscript (the default), pt2 (of torch.export), onnx, or state-dict (the weights as safetensors).

    Returns:
        The path.

    Raises:
        ConfigError: the format is unknown, or its extra is not installed.
        ExportError: the network cannot be converted, gives other outputs when converted, or cannot be written.

    Warns:
        NetworkWarning: the network's outputs depend on the rest of the batch, or the file takes sequences of one length
            only.
    """
    known_format(format)
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
    programs: dict[str, Program] = {}  # pt2 and ONNX begin with the same one
    results = []
    for format in formats:
        content, runner, length = _converted(network, example, format, programs, names or {})
        if compared or format == "state-dict":
            compare(network, runner, example, dependence=dependence, length=length)
        results.append(Converted(format, content, length))
    return results


def write_exported(path: Path, converted: Converted) -> None:
    """Write the content of a file, atomically.

    Raises:
        ExportError: it cannot be written.
    """
    try:
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


def _converted(
    network: nn.Module, example: Tensor, format: Format, programs: dict[str, Program], names: Mapping[str, str]
) -> tuple[bytes | memoryview, Runner, int | None]:
    """Convert to one format; return the content of the file, what runs it, and the only length that it takes."""
    if format == "torchscript":
        scripted = torchscript_bytes(network, to_torchscript(network, example))
        return scripted, torch_module(format, io.BytesIO(scripted)), None
    if format == "state-dict":
        return *_weights(network, names), None
    program = programs.get("") or programs.setdefault("", to_program(network, example, name=format))
    if format == "pt2":
        exported = program_bytes(network, program)
        return exported, _on_cpu(torch_module(format, io.BytesIO(exported))), program.length
    model = onnx_bytes(network, program)
    with conversion(network, "ONNX"):  # whatever ONNX Runtime has no kernel for
        run = opened(format, io.BytesIO(model), torch.get_num_threads())
    return model, _on_cpu(lambda samples: torch.from_numpy(run(samples.numpy()))), program.length


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
