"""Muon against its definition by singular values, and SGD for all that is no convolution."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import lctprune as lct
from lctprune.optim.muon import (
    DECAY_FACTOR,
    ITERATIONS,
    QUINTIC,
    SGD_FACTOR,
    _replace,
    _replace_together,
    orthogonalized,
)
from lctprune.optim.optimizers import Optimizers, apply_gradients, is_convolutional


def by_singular_values(matrix: Tensor) -> Tensor:
    """Apply the quintic to each singular value by itself."""
    left, values, right = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    return (left * values) @ right


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_only_singular_values_change(rows: int, columns: int, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = size * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(orthogonalized(matrix), by_singular_values(matrix))
    torch.testing.assert_close(orthogonalized(-matrix), -orthogonalized(matrix))


def test_singular_values_come_near_1_in_bf16_too() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(64, 576)
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.linalg.svdvals(orthogonalized(matrix.to(dtype)).float())
        assert 0.6 < values.min() < values.max() < 1.3
    assert torch.equal(orthogonalized(torch.zeros(4, 9)), torch.zeros(4, 9))


def test_matrices_of_a_gpu_change_together_as_they_do_one_by_one() -> None:
    """Wide, tall and square ones, several of a shape, in the layout of training."""
    torch.manual_seed(0)
    shapes = [(8, 4, 3, 3), (16, 8, 1, 1), (8, 4, 3, 3), (4, 16, 1, 1), (5, 5, 1, 1), (6, 1, 3, 3)]
    weights = [torch.zeros(shape).to(memory_format=torch.channels_last) for shape in shapes]
    gradients = [torch.randn(shape).to(memory_format=torch.channels_last) for shape in shapes]
    averages = [torch.randn_like(weight) for weight in weights]
    results = []
    for together in (False, True):
        own, old = [weight.clone() for weight in weights], [average.clone() for average in averages]
        for weight, gradient in zip(own, gradients, strict=True):
            weight.grad = gradient.clone(memory_format=torch.preserve_format)
        if together:
            _replace_together(own, old, 0.9, torch.float32)
        else:
            for weight, average in zip(own, old, strict=True):
                _replace(weight, average, 0.9, torch.float32)
        results.append([*(weight.grad for weight in own), *old])
    for one, other in zip(*results, strict=True):
        assert one is not None
        assert other is not None
        assert one.stride() == other.stride()
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "convolutional"),
    [
        ("resnet18", True),
        ("vgg16", True),  # nine tenths of its weights are in linear layers
        ("mobilenet_v3_small", True),
        ("efficientnet_b0", True),
        ("convnext_tiny", False),  # its convolutions are depthwise, its channels are mixed by linear layers
        ("vit_b_16", False),
        ("swin_t", False),
    ],
)
def test_muon_is_for_networks_that_mix_channels_by_convolutions(name: str, convolutional: bool) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    assert is_convolutional(model) is convolutional
    assert is_convolutional(model.requires_grad_(False)) is convolutional  # a backbone that the caller froze


class Mixed(nn.Module):
    """Convolutions of both kinds, normalisation, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 4, 3, padding=1)
        self.tall = nn.Conv2d(4, 12, 1, bias=False)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm = nn.BatchNorm2d(12)
        self.parametrised = spectral_norm(nn.Conv2d(12, 12, 1, bias=False))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.parametrised(self.norm(self.depthwise(self.tall(self.wide(x))))).mean((2, 3)))  # type: ignore[no-any-return]


def written_out(module: nn.Module, gradients: list[dict[str, Tensor]], lr: float, decay: float) -> dict[str, Tensor]:
    """All parameters after one step for each of the gradients."""
    state = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    average = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for gradient in gradients:
        for name, tensor in state.items():
            decayed = decay if tensor.dim() > 1 else 0.0
            if name in ("wide.weight", "tall.weight"):
                average[name] = 0.9 * average[name] + 0.1 * gradient[name]
                matrix = (0.9 * average[name] + 0.1 * gradient[name]).flatten(1)
                root = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                update = root * by_singular_values(matrix).view_as(tensor)
                state[name] = tensor - lr * (update + DECAY_FACTOR * decayed * tensor)
            else:
                whole = gradient[name] + decayed * tensor
                average[name] = 0.9 * average[name] + whole
                state[name] = tensor - SGD_FACTOR * lr * (whole + 0.9 * average[name])
    return state


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
def test_convolutions_take_orthogonal_steps_and_the_rest_sgds(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    module = Mixed().to(memory_format=layout)
    optimizers = Optimizers(
        module, None, lct.TrainConfig(optimizer="muon", weight_decay=0.01, precision="fp32").resolved()
    )
    gradients = []
    before = Mixed()
    before.load_state_dict(module.state_dict())
    assert [len(group["params"]) for group in optimizers.all["group"].param_groups] == [3, 5, 2]
    for _ in range(3):
        module(torch.randn(8, 3, 6, 6)).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in module.named_parameters()})  # type: ignore[union-attr]
        for optimizer in optimizers.all.values():
            apply_gradients(optimizer, lr=0.003)
        assert all(parameter.grad is None for parameter in module.parameters())
    expected = written_out(before, gradients, lr=0.003, decay=0.01)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(("features", "factor"), [(4, SGD_FACTOR), (128, SGD_FACTOR), (512, SGD_FACTOR / 4)])
def test_a_linear_layer_steps_the_shorter_the_more_features_it_has(features: int, factor: float) -> None:
    layer = nn.Linear(features, 3)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    (optimizer,) = Optimizers(layer, None, lct.TrainConfig(optimizer="muon", weight_decay=0).resolved()).all.values()
    layer(torch.ones(1, features)).sum().backward()  # every gradient is 1, and Nesterov's first update 1.9
    apply_gradients(optimizer, lr=0.01)
    torch.testing.assert_close(weight - layer.weight, torch.full_like(weight, factor * 0.01 * 1.9))
    torch.testing.assert_close(bias - layer.bias, torch.full_like(bias, SGD_FACTOR * 0.01 * 1.9))


def test_a_network_without_convolutions_learns_by_sgd_alone() -> None:
    both = []
    for optimizer, lr in (("muon", 0.01), ("sgd", 0.01 * SGD_FACTOR)):
        torch.manual_seed(0)
        layer = nn.Linear(4, 3)
        optimizers = Optimizers(layer, None, lct.TrainConfig(optimizer=optimizer, lr=lr).resolved())
        for _ in range(3):
            layer(torch.ones(2, 4)).square().sum().backward()
            for each in optimizers.all.values():
                apply_gradients(each, lr)
        both.append(layer.weight.detach())
    torch.testing.assert_close(*both)


def test_muon_is_not_for_weights_that_are_computed() -> None:
    normed = nn.utils.parametrizations.weight_norm
    network = nn.Sequential(normed(nn.Conv2d(3, 4, 3)), nn.ReLU(), normed(nn.Conv2d(4, 4, 3)))
    assert not is_convolutional(network)
