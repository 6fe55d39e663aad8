"""How far the outputs of a file may lie from those of the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lctprune.exporting.comparing import tolerance_of


def as_tf32(x: Tensor) -> Tensor:
    """Round to 10 bits behind the leading one, as convolutions on CUDA round their inputs."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def test_what_tf32_rounds_is_no_difference_on_cuda() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(18)]
    plain = rounded = torch.randn(16, 16, 8, 8)
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight)
        plain = functional.conv2d(plain, layer.weight, padding=1).relu()
        rounded = functional.conv2d(as_tf32(rounded), as_tf32(layer.weight), padding=1).relu()
    weights = torch.randn(16, 10)
    plain, rounded = (10 * each.mean((2, 3)) @ weights for each in (plain, rounded))  # as large as trained logits
    for device, agrees in (("cpu", False), ("cuda", True)):
        tolerance = tolerance_of(torch.float32, torch.device(device))
        assert torch.allclose(rounded, plain, rtol=tolerance, atol=tolerance) is agrees
