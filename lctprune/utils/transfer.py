"""Copies to an accelerator that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device; a copy to CUDA goes through pinned memory, and nothing waits for it.

    Args:
        tensor: tensor of any memory layout; a view with gaps is packed.
        device: device; a tensor that is there already is returned itself.
    """
    device = torch.device(device)
    if tensor.device.type == device.type:
        return tensor if device.index in (None, tensor.device.index) else tensor.to(device, non_blocking=True)
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        # from pageable memory a copy is not asynchronous, and from a view with gaps it makes a pageable one first
        tensor = torch.empty_like(tensor, pin_memory=True).copy_(tensor)
    return tensor.to(device, non_blocking=device.type == "cuda")


def synchronize(device: torch.device | str) -> None:
    """Wait until a device has done all its work, as clocks on the host need."""
    kind = torch.device(device).type
    if kind != "cpu":
        torch.get_device_module(kind).synchronize()
