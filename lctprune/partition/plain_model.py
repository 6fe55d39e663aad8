"""Make sure that a model is one whose parts can be trained: a plain network, on one device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lctprune.errors import NetworkError, PartitionError
from lctprune.utils.modules import evaluation_mode
from lctprune.utils.wrappers import unwrapped

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")


def plain_model(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """Unwrap a model, and move the example to its device.

    Args:
        model: network, maybe compiled or parallel; see `unwrapped`.
        example: input, [batch, ...].

    Raises:
        NetworkError: the model is no module, or its tensors are on several devices, or on the meta device.
        PartitionError: the model is a TorchScript, exported, quantised or sharded one, which has no parts to train.
    """
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        if kind == "ExportedProgram":
            raise PartitionError(f"the model is an exported program, which cannot be trained in parts; {_original()}")
        raise NetworkError(f"the model is a {kind}, not an nn.Module; give the network itself")
    model = unwrapped(model)
    for name, module in model.named_modules():
        if problem := _problem(module):
            raise PartitionError(f"{name or type(model).__name__} {problem}")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if is_traceable_wrapper_subclass(tensor):
            raise PartitionError(
                f"{name} is a {type(tensor).__name__}, which cannot be trained in parts; {_original()}"
            )
    return model, example.to(_device_of(model, [tensor for _, tensor in tensors], example))


def _original() -> str:
    return "give the nn.Module that it was made from"


def _problem(module: nn.Module) -> str | None:
    """Say why a module has no parts that could be trained; None where it has."""
    if isinstance(module, torch.jit.ScriptModule):
        return f"is a TorchScript module, which cannot be cut; {_original()}, with the weights of its state_dict()"
    if isinstance(module, fx.GraphModule) and "train" in vars(module):
        return f"is an exported program's module, which has no training mode; {_original()}"
    if type(module).__module__.startswith(_QUANTISED):
        return f"is a quantised {type(module).__name__}, which cannot be trained; {_original()}"
    if type(module).__name__ == "FullyShardedDataParallel":
        return f"is sharded over processes (FSDP); {_original()}"
    return None


def _device_of(model: nn.Module, tensors: Iterable[Tensor], example: Tensor) -> torch.device:
    devices = list(dict.fromkeys(tensor.device for tensor in tensors))
    if len(devices) > 1:
        raise NetworkError(
            f"{type(model).__name__}'s tensors are on several devices ({', '.join(map(str, devices))}); "
            "move them to one, as with model.to('cpu')"
        )
    if devices and devices[0].type == "meta" and not example.is_meta:
        raise NetworkError(
            f"{type(model).__name__} is on the meta device, so its weights have no values; "
            "give it some: model.to_empty(device='cpu'), then load_state_dict"
        )
    return devices[0] if devices else example.device


def match_types(critics: Sequence[nn.Module], groups: Sequence[nn.Module], example: Tensor) -> None:
    """Move critics to the device and the floating-point type of what they read: each its group's output.

    Args:
        critics: one critic per group but the last.
        groups: layer groups.
        example: input of the first group, [batch, ...], on the groups' device.
    """
    kinds = {each.dtype for group in groups for each in group.parameters() if each.is_floating_point()}
    if len(kinds) < 2:
        outputs = [*(kinds or [torch.get_default_dtype()])] * len(critics)
    else:
        outputs = _output_types(groups, example)
    for critic, dtype in zip(critics, outputs, strict=False):
        critic.to(example.device, dtype)


def _output_types(groups: Sequence[nn.Module], example: Tensor) -> list[torch.dtype]:
    types = []
    x = example[:1].detach().repeat_interleave(2, 0)  # a batch norm may need more than one sample
    for group in groups:
        with evaluation_mode(group), torch.no_grad():
            x = group(x)
        types.append(x.dtype)
    return types
