"""Convert a network to TorchScript, frozen for inference."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.exporting.comparing import is_close
from lctprune.exporting.copying import conversion, copied, without_warnings
from lctprune.utils.modules import evaluation_mode
from lctprune.utils.tracing_memory import forgetting_types


def to_torchscript(network: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """Trace a network in evaluation mode and freeze it for inference.

    Args:
        network: module; changing it later does not change the result.
        example: input, [batch, ...].

    Raises:
        ExportError: the network cannot be traced.
    """
    with conversion(network), torch.no_grad(), without_warnings(), evaluation_mode(network):
        own = copied(network)
        source = network if own is None else own
        try:
            with forgetting_types():
                traced = _traced(source, example)
        except Exception:  # functions that are compiled may need what was compiled before
            traced = _traced(source, example)
        return _frozen(traced, source, example)


def _traced(network: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    return _reloaded(torch.jit.trace(network, example, check_trace=False))  # type: ignore[no-untyped-call]


def torchscript_bytes(network: nn.Module, scripted: torch.jit.ScriptModule) -> memoryview:
    """Return the content of a TorchScript file.

    Args:
        network: original, for a message.
        scripted: result of `to_torchscript`.

    Raises:
        ExportError: it cannot be saved.
    """
    buffer = io.BytesIO()
    with conversion(network), without_warnings():
        torch.jit.save(scripted, buffer)
    return buffer.getbuffer()


def _frozen(traced: Any, network: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """Freeze a traced network for inference: with batch norm folded into the layers before it, where that is right.

    The folding is wrong for a batch norm over the steps after a linear layer with as many outputs
    (https://github.com/pytorch/pytorch/issues/118990).
    """
    expected, type = network(example), next((each.dtype for each in network.parameters()), None)
    try:
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced)
        if not isinstance(expected, Tensor) or is_close(frozen(example), expected, type=type):
            return frozen
    except RuntimeError:  # it cannot be folded
        unfolded: torch.jit.ScriptModule = torch.jit.freeze(traced, optimize_numerics=False)
        return unfolded
    unfolded = torch.jit.freeze(traced, optimize_numerics=False)
    return unfolded if is_close(unfolded(example), expected, type=type) else frozen


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
