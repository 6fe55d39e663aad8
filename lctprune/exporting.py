"""Export a network to a file that runs without lctprune: convert it, compare it with the original, write the file."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lctprune.errors import ConfigError, ExportError, NetworkWarning, first_line
from lctprune.utils.batches import CAUSES, ROUNDING, batch_dependence, runs_alone
from lctprune.utils.files import write_atomically
from lctprune.utils.modules import device_of, evaluation_mode
from lctprune.utils.tracing_memory import forgetting_types
from lctprune.utils.wrappers import unwrapped

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
        network: traceable module, such as `LocalCriticNetwork.subnetwork(k)`; it stays as it is, in its own type.
        example: real samples, [batch, ...], preprocessed as the network expects them; better more than one.
        path: output file; an existing file is replaced.
        format: file format.

    Returns:
        The path.

    Raises:
        ConfigError: the format is unknown.
        ExportError: the network cannot be converted, gives other outputs when converted, or cannot be written.

    Warns:
        NetworkWarning: the network's outputs depend on the rest of the batch.
    """
    known_format(format)
    with _conversion(network), evaluation_mode(network), torch.no_grad():
        dependence = batch_dependence(unwrapped(network), _several(example).to(device_of(network)))
    path = export_known(network, example, path, dependence=dependence, format=format)
    if dependence:
        warnings.warn(
            f"the exported network {dependence}: its accuracy in batches says nothing of single samples ({CAUSES})",
            NetworkWarning,
            stacklevel=2,
        )
    return path


def export_known(
    network: nn.Module, example: Tensor, path: str | Path, *, dependence: str | None, format: Format = "torchscript"
) -> Path:
    """Write a network to a file as `export` does, where it is known how outputs depend on the rest of the batch.

    Args:
        network: traceable module.
        example: real samples, [batch, ...].
        path: output file.
        dependence: clause as `batch_dependence` gives it; empty or None where outputs do not depend on the batch.
        format: file format.

    Returns:
        The path.

    Raises:
        ConfigError: the format is unknown.
        ExportError: the network cannot be converted, gives other outputs when converted, or cannot be written.
    """
    known_format(format)
    network = unwrapped(network)
    example = example.to(device_of(network))
    scripted = to_torchscript(network, example)
    batch = _several(example)
    singles = example[:SINGLE_SAMPLES, None].unbind() if runs_alone(dependence) else []
    for samples in (batch, *singles, *_shorter(network, batch)):
        _compare(network, scripted, samples, may_be_nan=bool(dependence))
    buffer = io.BytesIO()
    with _conversion(network), _without_warnings():
        torch.jit.save(scripted, buffer)
    path = Path(path)
    try:
        write_atomically(path, buffer.getbuffer())
    except OSError as error:
        raise ExportError(f"{path} cannot be written ({error.strerror}); choose another place") from error
    return path


def _several(example: Tensor) -> Tensor:
    """Return a batch of more than one sample."""
    return example if len(example) > 1 else example.expand(2, *example.shape[1:])


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
    with _conversion(network), torch.no_grad(), _without_warnings(), evaluation_mode(network):
        own = _copied(network)
        source = network if own is None else own
        with forgetting_types():
            traced = _reloaded(torch.jit.trace(source, example, check_trace=False))  # type: ignore[no-untyped-call]
        return _frozen(traced, source, example)


def _copied(network: nn.Module) -> nn.Module | None:
    """Copy a network; None if it holds what cannot be copied.

    Tensors with a graph, as weight normalisation and pruning keep until the next call, are copied without it; backward
    hooks are not copied.
    """
    with_graph = {id(tensor): tensor for module in network.modules() for tensor in _graph_tensors(vars(module))}
    try:
        own = copy.deepcopy(network, {key: tensor.detach().clone() for key, tensor in with_graph.items()})
    except Exception:  # whatever the network's own objects raise
        return None
    for module in own.modules():  # an exported network has no backward pass
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    return own


def _graph_tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor) and not value.is_leaf:
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _graph_tensors(each)


def _frozen(traced: Any, network: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """Freeze a traced network for inference: with batch norm folded into the layers before it, where that is right.

    The folding is wrong for a batch norm over the steps after a linear layer with as many outputs
    (https://github.com/pytorch/pytorch/issues/118990).
    """
    expected = network(example)
    try:
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced)
        if not isinstance(expected, Tensor) or _is_close(frozen(example), expected):
            return frozen
    except RuntimeError:  # it cannot be folded
        unfolded: torch.jit.ScriptModule = torch.jit.freeze(traced, optimize_numerics=False)
        return unfolded
    unfolded = torch.jit.freeze(traced, optimize_numerics=False)
    return unfolded if _is_close(unfolded(example), expected) else frozen


def _reloaded(traced: Any) -> torch.jit.ScriptModule:
    """Copy a traced network, which shares no memory with the original then.

    What is frozen becomes a part of the compilation unit that it stands in, weights included. Traces stand in one that
    Python never frees; a loaded network has its own, which goes with it.
    """
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    copied: torch.jit.ScriptModule = torch.jit.load(buffer)  # type: ignore[no-untyped-call]
    return copied


def _is_close(actual: Tensor, expected: Tensor, *, may_be_nan: bool = False) -> bool:
    tolerance = ROUNDING.get(expected.dtype, TOLERANCE)
    return actual.shape == expected.shape and torch.allclose(
        expected, actual, rtol=tolerance, atol=tolerance, equal_nan=may_be_nan
    )


@contextmanager
def _conversion(network: nn.Module) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the network's own code raises, too
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


def _compare(
    network: nn.Module, scripted: torch.jit.ScriptModule, samples: Tensor, *, may_be_nan: bool = False
) -> None:
    with evaluation_mode(network), torch.no_grad():
        expected = network(samples)
        try:
            actual = scripted(samples)
        except RuntimeError as error:
            raise ExportError(
                f"the converted network fails on inputs of shape {list(samples.shape)}, and the original does not: it "
                "probably holds a size as a constant; nothing was written"
            ) from error
    if not _is_close(actual, expected, may_be_nan=may_be_nan):
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
