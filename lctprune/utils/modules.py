"""Measure a network as it is in training, and leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


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
