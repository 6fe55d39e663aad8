"""Export a network to a file that runs without lctprune: convert it, compare it with the original, write the file."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lctprune.errors import ConfigError, ExportError, first_line
from lctprune.utils.files import write_atomically
from lctprune.utils.modules import device_of, evaluation_mode

Format = Literal["torchscript"]
FORMATS: tuple[Format, ...] = get_args(Format)
SINGLE_SAMPLES = 8  # number of samples that are also compared one by one
TOLERANCE = 1e-3  # of outputs, relative and absolute: freezing folds batch norm into convolutions, which rounds anew


def export(network: nn.Module, example: Tensor, path: str | Path, *, format: Format = "torchscript") -> Path:
    """Write a network to a file, after comparing the converted network with the original.

    The two are compared on the example as it is, on some samples one by one, and on sequences cut to half their length
    where the network takes them, so that a batch size, a length or a branch frozen into the file is found. The file
    appears whole or not at all.

    Args:
        network: traceable module, such as `LocalCriticNetwork.subnetwork(k)`.
        example: real samples, [batch, ...], preprocessed as the network expects them; better more than one.
        path: output file; an existing file is replaced.
        format: file format.

    Returns:
        The path.

    Raises:
        ConfigError: the format is unknown.
        ExportError: the network cannot be converted, gives other outputs when converted, or cannot be written.
    """
    known_format(format)
    example = example.to(device_of(network))
    scripted = to_torchscript(network, example)
    batch = example if len(example) > 1 else example.expand(2, *example.shape[1:])
    for samples in (batch, *example[:SINGLE_SAMPLES, None].unbind(), *_shorter(network, batch)):
        _compare(network, scripted, samples)
    buffer = io.BytesIO()
    with _conversion(network), _without_warnings():
        torch.jit.save(scripted, buffer)
    path = Path(path)
    try:
        write_atomically(path, buffer.getbuffer())
    except OSError as error:
        raise ExportError(f"{path} cannot be written ({error.strerror}); choose another place") from error
    return path


def known_format(name: str) -> Format:
    """Return a file format by its name.

    Raises:
        ConfigError: there is no such format.
    """
    for format in FORMATS:
        if format == name:
            return format
    raise ConfigError(f"format {name!r} is unknown; known formats: {', '.join(FORMATS)}")


def to_torchscript(network: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """Trace a network in evaluation mode and freeze it for inference.

    Args:
        network: module; changing it later does not change the result.
        example: input, [batch, ...].

    Raises:
        ExportError: the network cannot be traced.
    """
    with _conversion(network), torch.no_grad(), _without_warnings():
        frozen = copy.deepcopy(network).eval()
        for module in frozen.modules():  # an exported network has no backward pass
            module._backward_hooks.clear()
            module._backward_pre_hooks.clear()
        traced = torch.jit.trace(frozen, example, check_trace=False)  # type: ignore[no-untyped-call]
        scripted: torch.jit.ScriptModule = torch.jit.freeze(traced)
    return scripted


@contextmanager
def _conversion(network: nn.Module) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ExportError(
            f"{type(network).__name__} cannot be converted to TorchScript: {first_line(error)}"
        ) from error


def _shorter(network: nn.Module, example: Tensor) -> list[Tensor]:
    """Cut sequences to half their length; none where inputs are no sequences or the network has a fixed length."""
    if example.dim() != (2 if example.dtype == torch.int64 else 3):
        return []
    shorter = example[:, : -(-example.shape[1] // 2)]
    try:
        with evaluation_mode(network), torch.no_grad():
            network(shorter)
    except (RuntimeError, AssertionError, ValueError):  # a fixed length
        return []
    return [shorter]


def _compare(network: nn.Module, scripted: torch.jit.ScriptModule, samples: Tensor) -> None:
    with evaluation_mode(network), torch.no_grad():
        expected = network(samples)
        try:
            actual = scripted(samples)
        except RuntimeError as error:
            raise ExportError(
                f"the converted network fails on inputs of shape {list(samples.shape)}, and the original does not: it "
                "probably holds a size as a constant; nothing was written"
            ) from error
    if expected.shape != actual.shape or not torch.allclose(expected, actual, rtol=TOLERANCE, atol=TOLERANCE):
        raise ExportError(
            f"the converted network differs from the original on inputs of shape {list(samples.shape)} "
            f"(outputs {list(actual.shape)}, expected {list(expected.shape)}); nothing was written"
        )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence two warnings: that TorchScript is deprecated, and that a trace may be wrong, which is checked here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", category=torch.jit._trace.TracerWarning)
        yield
