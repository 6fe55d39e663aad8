"""Copy a network for a conversion, and report what goes wrong in one."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import torch
from torch import Tensor, nn

from lctprune.errors import ExportError, first_line


def copied(network: nn.Module) -> nn.Module | None:
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


@contextmanager
def conversion(network: nn.Module, to: str = "TorchScript") -> Iterator[None]:
    """Report any error inside the block as one of the conversion.

    Args:
        network: network that is converted.
        to: name of the format, for the message.

    Raises:
        ExportError: anything was raised inside.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # whatever the network's own code raises, too
        raise ExportError(f"{type(network).__name__} cannot be converted to {to}: {first_line(error)}") from error


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence two warnings: that TorchScript is deprecated, and that a trace may be wrong, which is checked here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", category=torch.jit._trace.TracerWarning)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the converters of torch.export and ONNX print, log and warn of: their progress, and themselves."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
