"""Where a network can be cut: what each cut point costs, and how its tensor lies."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import Permute

import lctprune as lct
from lctprune.measure.costs import saved_bytes
from lctprune.partition.cut_points import MeasuredCutPoint, distinct_cut_points, find_cut_points, measure_cut_points
from lctprune.partition.cutting import partition_model, possible_cut_points
from lctprune.partition.node_costs import count_node_memory
from lctprune.partition.symbolic.tracing import nodes_of, trace


def groups_of(model: nn.Module, example: Tensor, **settings: Any) -> list[nn.Module]:
    return partition_model(model, example, **settings).groups


def points_of(model: nn.Module, x: Tensor) -> dict[str, MeasuredCutPoint]:
    return {point.name: point for point in measure_cut_points(trace(model), x)}


def memory_of(model: nn.Module, x: Tensor) -> list[int]:
    """Bytes that autograd saves up to each cut point."""
    traced = trace(model)
    saved = list(itertools.accumulate(count_node_memory(traced.root, traced.evaluation, x)))
    return [saved[point.node] for point in find_cut_points(traced, x)]


def tiny() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Flatten(), nn.Linear(8 * 16, 2))


# --- costs, by hand --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5])
def test_shapes_and_flops(batch: int) -> None:
    points = points_of(tiny(), torch.randn(batch, 3, 4, 4))
    assert {name: point.shape for name, point in points.items()} == {
        "0": (4, 4, 4),
        "1": (4, 4, 4),
        "2": (8, 4, 4),
        "3": (128,),
        "4": (2,),
    }
    first, second, third = 2 * 3 * 4 * 16, 2 * 4 * 8 * 16, 2 * 128 * 2
    assert [point.flops for point in points.values()] == [
        first, first, first + second, first + second, first + second + third,
    ]  # fmt: skip
    assert not any(point.unknown for point in points.values())


@pytest.mark.parametrize("batch", [1, 5])
def test_memory_is_what_autograd_saves(batch: int) -> None:
    convolution = 4 * 3 * 16  # its input, 4 bytes a number
    relu = 4 * 4 * 16  # its output, which is the second convolution's input
    linear = 4 * 128  # its input
    assert memory_of(tiny(), torch.randn(batch, 3, 4, 4)) == [
        convolution, convolution + relu, convolution + relu, convolution + relu, convolution + relu + linear,
    ]  # fmt: skip


def test_memory_of_all_nodes_is_the_networks() -> None:
    model, x = tiny(), torch.randn(1, 3, 4, 4)
    assert memory_of(model, x)[-1] == saved_bytes(model, x)


def test_measuring_leaves_no_trace() -> None:
    model, x = (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).train(),
        torch.randn(2, 3, 4, 4),
    )
    state, images = {name: tensor.clone() for name, tensor in model.state_dict().items()}, x.clone()
    find_cut_points(trace(model), x)
    points_of(model, x)
    memory_of(model, x)
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert torch.equal(x, images)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())


# --- which cut points ------------------------------------------------------------------------------------------------


def test_a_place_before_an_operation_in_place_is_none() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Hardswish(inplace=True),
        nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 2),
    )  # fmt: skip
    assert list(points_of(model, torch.randn(2, 3, 4, 4))) == ["1", "2", "4", "5", "6", "7"]


def test_no_group_changes_its_input() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.a(x), inplace=True)
            x = self.b(x).relu_()
            x = self.c(x)
            x.add_(1)
            x *= 2
            return x

    model, x = InPlace(), torch.randn(3, 4)
    parts = groups_of(model, x, groups=3)
    expected = model(x)
    for part in parts:
        version, before = x._version, x.clone()
        output = part(x)
        assert x._version == version
        assert torch.equal(x, before)
        x = output.detach()
    assert torch.equal(x, expected)


def test_only_single_tensors_are_cut_points() -> None:
    class TwoPaths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right, self.head = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            left, right = self.left(x), self.right(x)
            return self.head(left * right)

    assert list(points_of(TwoPaths(), torch.randn(2, 4))) == ["stem", "mul", "head"]


def test_the_number_of_samples_is_no_feature() -> None:
    class Flattened(nn.Module):
        """A tensor whose first dimension is not the batch is no place to cut."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:  # [batch, time, 4]
            time = x.shape[1]
            x = self.a(x).flatten(0, 1)
            return self.c(self.b(x).unflatten(0, (-1, time)).mean(1))

    names = list(points_of(Flattened(), torch.randn(2, 3, 4)))
    assert "b" not in names
    assert names[-1] == "c"


def test_of_cut_points_with_equal_flops_the_last_map_counts() -> None:
    x = torch.randn(2, 3, 4, 4)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip
    assert [point.name for point in distinct_cut_points(list(points_of(model, x).values()))] == ["1", "4", "6"]
    assert [point.name for point in possible_cut_points(model, x)] == ["1", "4"]


def test_cut_points_come_in_order() -> None:
    points = list(points_of(tiny(), torch.randn(1, 3, 4, 4)).values())
    assert all(left.node < right.node and left.flops <= right.flops for left, right in itertools.pairwise(points))
    traced = trace(tiny())
    assert points[-1].node == len(nodes_of(traced.evaluation)) - 1


# --- how the features lie --------------------------------------------------------------------------------------------


class SwinLike(nn.Module):
    """Convolution, then maps with their features last, as torchvision's Swin and ConvNeXt have them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), Permute([0, 2, 3, 1]), nn.LayerNorm(8))
        self.blocks = nn.Sequential(
            *[nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(2)]
        )
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:  # [batch, 3, 12, 20] -> [batch, 6, 10, 8] -> [batch, 5]
        return self.head(self.norm(self.blocks(self.patches(x))).mean((1, 2)))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.layers = nn.Sequential(*[nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(2)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def convolutions(kind: type[nn.Module], norm: type[nn.Module], pool: type[nn.Module]) -> nn.Sequential:
    layers = [[kind(before, 6, 3, padding=1), norm(6), nn.ReLU()] for before in (3, 6, 6)]
    return nn.Sequential(*itertools.chain.from_iterable(layers), pool(1), nn.Flatten(), nn.Linear(6, 5))


CASES = {
    "swin": (SwinLike, (3, 12, 20), "blocks.0", True, 8),
    "tokens": (Tokens, (3, 12, 20), "layers.0", True, 8),
    "conv1d": (lambda: convolutions(nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d), (3, 9), "5", False, 6),
    "conv2d": (lambda: convolutions(nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d), (3, 12, 8), "5", False, 6),
    "steps": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Flatten(), nn.Linear(24, 5)),
        (3, 4),
        "0",
        True,
        8,
    ),
}


@pytest.mark.parametrize(("build", "shape", "cut", "features_last", "width"), CASES.values(), ids=CASES)
def test_where_the_features_are(
    build: type[nn.Module], shape: tuple[int, ...], cut: str, features_last: bool, width: int
) -> None:
    model = build()
    point = points_of(model, torch.randn(1, *shape))[cut]
    assert point.channels_last == features_last
    assert point.shape[-1 if features_last else 0] == width


@pytest.mark.parametrize("critic", ["tail", "linear"])
@pytest.mark.parametrize(("build", "shape", "cut", "features_last", "width"), CASES.values(), ids=CASES)
def test_critics_read_the_features(
    build: type[nn.Module], shape: tuple[int, ...], cut: str, features_last: bool, width: int, critic: str
) -> None:
    x = torch.randn(4, *shape)
    network = lct.attach_critics(build(), x, num_outputs=5, critic=critic, split_at=[cut])
    assert [output.shape for output in network.exits(x)] == [(4, 5)] * 2
    first = next(module for module in network.critics[0].modules() if isinstance(module, nn.Linear | nn.Conv2d))
    assert width == (first.in_features if isinstance(first, nn.Linear) else first.in_channels)
    lct.local_critic_backward(network, x, torch.tensor([0, 1, 2, 3]))
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(("shape", "features_last"), [((4,), True), ((5, 4), True), ((6, 5, 4), False)])
def test_where_no_layer_says_so_the_features_are_where_they_usually_are(
    shape: tuple[int, ...], features_last: bool
) -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.a).relu() @ self.b

    assert points_of(Products(), torch.randn(1, *shape))["relu"].channels_last == features_last
