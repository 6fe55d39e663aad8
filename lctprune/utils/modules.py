"""Measure a network as it is in training, and leave no trace."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)


@contextmanager
def training_for_now(network: nn.Module) -> Iterator[None]:
    """Training mode inside, without gradients at first; afterwards everything is as it was.

    That is: `.grad` of every parameter, buffers (batch norm's running statistics), the mode of each module, and the
    global random generator. Whoever changes parameters inside must put them back.
    """
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    modes = [(module, module.training) for module in network.modules()]
    # a seed set inside would be that of all devices
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    network.train()
    try:
        with torch.random.fork_rng(devices=devices):
            network.zero_grad(set_to_none=True)
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, name, buffer, value in buffers:
            with torch.no_grad():
                buffer.copy_(value)
            setattr(module, name, buffer)  # some modules put another tensor in its place
        for module, training in modes:
            module.training = training


def device_of(network: nn.Module) -> torch.device:
    """Where the network's tensors are; the CPU where it has none."""
    return next(iter(network.state_dict().values()), torch.empty(0)).device


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def shared_tensor(parts: Sequence[nn.Module]) -> str | None:
    """The name of a parameter to train, or of a persistent buffer, that two modules hold, if there is one."""
    seen: set[int] = set()
    for part in parts:
        held = part.state_dict(keep_vars=True).items()
        frozen = {id(parameter) for parameter in part.parameters() if not parameter.requires_grad}
        names = {id(tensor): name for name, tensor in held if id(tensor) not in frozen}
        for key, name in names.items():
            if key in seen:
                return name
        seen |= names.keys()
    return None


def moved(module: _Module, device: str) -> _Module:
    """A module, in place, on a device, with feature maps' weights in the memory layout of training: channels last."""
    module.to(device)
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.dim() == 4 and tensor.is_floating_point():
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module


def packed(tensor: Tensor) -> Tensor:
    """Return the tensor if it is dense in memory (any stride order), else a compact copy.

    What a group gives is handed on so, whether to the next module or to another process: sums over the same numbers are
    the same to the bit only in the same memory layout.
    """
    kept = torch.empty_like(tensor, device="meta")  # keeps the strides of just such tensors
    return tensor if kept.stride() == tensor.stride() else torch.empty_like(tensor).copy_(tensor)
