"""Module utilities: change a network's mode for a while, move it, look at its tensors."""

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
    """Set training mode inside the block, without gradients at first, and restore the network on exit.

    Restored are `.grad` of every parameter, buffers (batch norm's running statistics), the mode of each module, and the
    global random generator. A caller that changes parameters inside must put them back itself.
    """
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    modes = [(module, module.training) for module in network.modules()]
    # a seed set inside is set for all devices
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
    """Return the device of the network's tensors; the CPU if it has none."""
    return next(iter(network.state_dict().values()), torch.empty(0)).device


def stored_bytes(network: nn.Module) -> int:
    """Count the bytes of a network's state dict; a tensor with several names counts once."""
    tensors = {id(tensor): tensor for tensor in network.state_dict(keep_vars=True).values()}
    return sum(tensor.nbytes for tensor in tensors.values())


@contextmanager
def held_on(network: nn.Module, device: str) -> Iterator[None]:
    """Hold a network on a device inside the block, in full single precision; put it back on exit."""
    before = device_of(network)
    network.to(device)
    try:
        with full_precision(device):
            yield
    finally:
        network.to(before)


@contextmanager
def full_precision(device: torch.device | str) -> Iterator[None]:
    """Keep convolutions on CUDA from rounding to TF32 inside the block, as they do by default."""
    cudnn = torch.backends.cudnn
    if torch.device(device).type != "cuda":
        yield
        return
    with cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    ):
        yield


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Set evaluation mode inside the block, and restore the mode of each module on exit."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def hold_frozen(network: nn.Module) -> None:
    """Put modules with buffers into evaluation mode where nothing is to be trained, so that no statistics move.

    These are the modules of the largest parts of the network that have parameters, all of them frozen.
    """
    parameters = list(network.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        for module in network.modules():
            if module._buffers:
                module.training = False
    else:
        for child in network.children():
            hold_frozen(child)


def hold_statistics(network: nn.Module, *, new: Sequence[str] = ()) -> None:
    """Put batch norm, and all that keeps running statistics like it, into evaluation mode.

    Args:
        network: network whose statistics are to stay.
        new: names of new parameters; statistics beside them move on.
    """
    layers = {name.rpartition(".")[0] for name in new}
    for path, module in network.named_modules():
        if getattr(module, "running_mean", None) is not None and path not in layers:
            module.training = False


def shared_tensor(parts: Sequence[nn.Module]) -> str | None:
    """Find a parameter to train, or a persistent buffer, that two modules hold.

    Returns:
        Its name in the second module; None if there is none.
    """
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


def training_layout(network: nn.Module, device: str) -> torch.memory_format:
    """Return the memory layout in which a network is trained: channels last, where no layer's backward pass crashes."""
    is_last = torch.device(device).type != "cpu" or not any(map(_crashes, network.modules()))
    return torch.channels_last if is_last else torch.contiguous_format


def laid_out(inputs: Tensor, layout: torch.memory_format) -> Tensor:
    """Return inputs with their channels first if the layout is that; others in the layout that they have."""
    return inputs.contiguous() if layout == torch.contiguous_format else inputs


def moved(module: _Module, device: str, layout: torch.memory_format | None = None) -> _Module:
    """Move a module to a device, in place, and give 4-d weights the memory layout of training.

    Args:
        module: module to move.
        device: device to move it to.
        layout: layout of the network that it is a part of; by default the module's own `training_layout`.
    """
    module.to(device)
    layout = layout or training_layout(module, device)
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.dim() == 4 and tensor.is_floating_point():
            tensor.data = tensor.data.contiguous(memory_format=layout)
    return module


def _crashes(module: nn.Module) -> bool:
    """Say whether PyTorch's backward pass of a layer writes past its memory on CPUs where the channels come last.

    Seen with PyTorch 2.14: strided 1x1 convolutions of fewer input channels than a vector register has numbers.
    """
    if not isinstance(module, nn.Conv2d) or module.groups > 1:
        return False
    least = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
    return set(module.kernel_size) == {1} and max(module.stride) > 1 and module.in_channels < least


def packed(tensor: Tensor) -> Tensor:
    """Return the tensor if it is dense in memory (any stride order), else a compact copy.

    A group's output is handed on in this form, to the next module as to another process: sums over equal numbers are
    equal to the bit only in the same memory layout.
    """
    kept = torch.empty_like(tensor, device="meta")  # has the strides of a tensor that is dense in memory
    return tensor if kept.stride() == tensor.stride() else torch.empty_like(tensor).copy_(tensor)
