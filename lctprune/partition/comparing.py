"""Compare layer groups with the network that they were cut from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lctprune.errors import NetworkError, PartitionError
from lctprune.partition.calling import OneTensor
from lctprune.partition.tracing import BY_HAND
from lctprune.utils.modules import evaluation_mode, training_for_now


def require_same(model: nn.Module, parts: Sequence[nn.Module], example: Tensor) -> None:
    """Compare layer groups with the network that they were cut from: outputs, gradients and changed buffers.

    Outputs are compared for several batch sizes and lengths in evaluation mode, gradients in training mode.

    Raises:
        PartitionError: they differ.
    """
    called, groups = OneTensor(model), nn.Sequential(*parts)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        return
    with evaluation_mode(nn.ModuleList([called, groups])), torch.no_grad():
        for samples in called.variants(example):
            try:
                expected = called(samples)
            except Exception:
                continue
            try:
                actual = groups(samples)
            except NetworkError:  # refused by `InputLimits`, as any such input will be
                continue
            _require_close(model, [expected], [actual], f"inputs of {list(samples.shape)}")
    samples = called.batch_of(example, 2)
    expected_step, step = (_training_step(each, called, groups, samples) for each in (called, groups))
    _require_close(model, expected_step, step, "a step of training")


def _training_step(network: nn.Module, called: nn.Module, groups: nn.Module, samples: Tensor) -> list[Tensor]:
    """Return the output, gradients and buffers of a step in training mode, and restore what it changes."""
    with training_for_now(nn.ModuleList([called, groups])):
        torch.manual_seed(0)
        output = network(samples)
        (output * torch.linspace(1, 2, output.numel()).reshape(output.shape).to(output)).sum().backward()
        gradients = [parameter.grad for parameter in called.parameters()]
        return [output.detach(), *(each for each in gradients if each is not None), *map(torch.clone, called.buffers())]


def _require_close(model: nn.Module, expected: Sequence[Tensor], actual: Sequence[Tensor], where: str) -> None:
    if len(expected) == len(actual) and all(map(_is_close, expected, actual)):
        return
    raise PartitionError(
        f"{type(model).__name__} does not compute in groups what it computes as a whole ({where}); {BY_HAND}"
    )


def _is_close(left: Tensor, right: Tensor) -> bool:
    scale = float(left.abs().max()) if left.numel() else 0.0
    return left.shape == right.shape and torch.allclose(left, right, rtol=0, atol=1e-3 * scale + 1e-6, equal_nan=True)
