"""Networks with operations whose FLOPs nobody knows: they are cut, trained, measured and chosen like any other."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import DeformConv2d

import lctprune as lct
from lctprune.measure.costs import counting_flops
from lctprune.measure.group_costs import measure_groups
from lctprune.partition.cut_points import distinct_cut_points, measure_cut_points
from lctprune.partition.cutting import all_cut_points, partition_model
from lctprune.partition.symbolic.tracing import trace

IMAGE, TOKENS = torch.randn(2, 3, 16, 16), torch.randint(0, 20, (2, 6))
FOURIER = r"aten\._fft_c2c"


class Fourier(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.real(torch.fft.fft2(x))


def fourier_network() -> nn.Sequential:
    layers = [[nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), Fourier()] for channels in (3, 4, 4)]
    return nn.Sequential(*itertools.chain.from_iterable(layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


# --- cutting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance_by", ["time", "memory"])
def test_only_balancing_flops_needs_them(balance_by: str) -> None:
    network = lct.attach_critics(fourier_network(), IMAGE, num_outputs=3, groups=3, balance_by=balance_by)
    assert [output.shape for output in network.exits(IMAGE)] == [(2, 3)] * 3


def test_named_cut_points_need_no_flops() -> None:
    network = lct.attach_critics(fourier_network(), IMAGE, num_outputs=3, split_at=["2", "4"])
    assert network.cut_point_names == ("2", "4")
    losses = lct.local_critic_backward(network, IMAGE, torch.tensor([0, 2]))
    assert all(loss.isfinite().all() for loss in losses)


def test_balancing_flops_goes_by_the_other_operations_and_says_so_once() -> None:
    model = fourier_network()
    with pytest.warns(lct.NetworkWarning, match=f"{FOURIER}.*has no FLOP formula") as caught:
        groups = partition_model(model, IMAGE, groups=3).groups
    assert len(caught) == 1
    assert [sum(isinstance(module, nn.Conv2d) for module in group.modules()) for group in groups] == [1, 1, 1]


def test_an_unknown_operation_separates_cut_points() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), Fourier(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(1024, 3)
    )
    points = measure_cut_points(trace(model), IMAGE)
    assert [(point.name, len(point.unknown)) for point in distinct_cut_points(points)] == [
        ("1", 0), ("2", 1), ("3", 1), ("5", 1),
    ]  # fmt: skip
    assert all_cut_points(model, IMAGE)[-1].flops == 2 * (3 * 4 * 256 + 4 * 4 * 256 + 1024 * 3)


# --- measuring -------------------------------------------------------------------------------------------------------


def test_missing_flops_are_missing_and_said_once() -> None:
    data = lct.TensorSplit(torch.randint(256, (8, 16, 16, 3), dtype=torch.uint8), torch.arange(8) % 3)
    network = lct.attach_critics(fourier_network(), IMAGE, num_outputs=3, split_at=["1", "4"])
    with pytest.warns(lct.NetworkWarning, match=FOURIER) as caught:
        candidates = lct.evaluate(network, data, IMAGE, latency_repeats=0)
    assert len(caught) == 1
    assert [(candidate.flops is None, candidate.macs is None) for candidate in candidates] == [
        (False, False), (True, True), (True, True),
    ]  # fmt: skip
    assert lct.select(candidates, lct.Budget(parameters=10**6)) in candidates
    with pytest.raises(lct.ConfigError, match="flops"):
        lct.select(candidates, lct.Budget(flops="50%"))
    assert lct.select(candidates, lct.Budget(flops=1e12)) == candidates[0]
    with pytest.raises(lct.BudgetError, match="flops was not measured"):
        lct.select(candidates[1:], lct.Budget(flops=1e12))


def test_groups_without_the_operation_keep_their_flops() -> None:
    network = lct.attach_critics(fourier_network(), IMAGE, num_outputs=3, split_at=["1", "4"], critic="linear")
    with pytest.warns(lct.NetworkWarning, match=FOURIER) as caught:
        costs = measure_groups(network, IMAGE)
    assert len(caught) == 1
    assert [cost.flops for cost in costs] == [2 * 9 * 3 * 4 * 256, None, None]
    assert [cost.critic_flops for cost in costs] == [2 * 4 * 3, 2 * 4 * 3, 0]


def test_a_registered_formula_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch.utils.flop_counter.flop_registry, torch.ops.aten._fft_c2c, lambda *_, **__: 7)
    layer = nn.Sequential(Fourier(), nn.Flatten(), nn.Linear(768, 2))
    network = lct.attach_critics(layer, IMAGE, num_outputs=2, groups=1)
    assert lct.count_flops(network, IMAGE) == 7 + 2 * 768 * 2


# --- operations that other counters do not know ----------------------------------------------------------------------


class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.locate, self.first, self.last = nn.Linear(768, 6), nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        grid = functional.affine_grid(self.locate(x.flatten(1)).view(-1, 2, 3), x.size(), align_corners=False)
        return self.last(self.first(functional.grid_sample(x, grid, align_corners=False)).mean((2, 3)))


class Unpooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, indices = functional.max_pool2d(self.first(x), 2, return_indices=True)
        return self.last(self.second(functional.max_unpool2d(h, indices, 2)).mean((2, 3)))


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.first, self.last = nn.EmbeddingBag(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(self.bag(x)).relu())


class Deformable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.offset = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 18, 3, padding=1)
        self.deformable, self.last = DeformConv2d(4, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(self.deformable(h, self.offset(h)).mean((2, 3)))


class Ones(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(5, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.cat([h, h.new_ones(h.shape[0], 1, 14, 14)], 1)).mean((2, 3))


class Median(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h - h.flatten(2).median(2).values[:, :, None, None]).mean((2, 3))


MACS = {
    SpatialTransformer: 768 * 6 + 16 * 16 * 2 * 3 + 9 * 3 * 4 * 196 + 4 * 3,
    Unpooling: 9 * 3 * 4 * 196 + 9 * 4 * 4 * 144 + 4 * 3,
    Bag: 8 * 8 + 8 * 3,
    Deformable: 9 * 196 * (3 * 4 + 4 * 18 + 4 * 6) + 6 * 3,
    Ones: 9 * 3 * 4 * 196 + 9 * 5 * 3 * 144,
    Median: 9 * 3 * 4 * 196 + 9 * 4 * 3 * 144,
}


@pytest.mark.parametrize(("build", "macs"), MACS.items(), ids=[build.__name__ for build in MACS])
def test_known_multiply_adds_are_counted_and_the_network_is_cut(build: Callable[[], nn.Module], macs: int) -> None:
    x = TOKENS if build is Bag else IMAGE
    model = build().eval()
    assert lct.count_flops(model, x) == 2 * macs
    network = lct.attach_critics(model, x, num_outputs=3, groups=2).eval()
    assert torch.equal(network(x), model(x))


def test_products_of_which_sums_are_taken() -> None:
    left, right, vector = torch.randn(3, 4, 5), torch.randn(3, 5, 6), torch.randn(5)
    with counting_flops() as count:
        torch.addbmm(torch.zeros(4, 6), left, right)
        assert count() == (2 * 3 * 4 * 5 * 6, ())
        torch.addmv(torch.zeros(4), left[0], vector)
    assert count() == (2 * 3 * 4 * 5 * 6 + 2 * 4 * 5, ())


def test_an_affine_grid_in_space_is_a_product_with_homogeneous_coordinates() -> None:
    maps, size = torch.randn(2, 3, 4), (2, 1, 3, 4, 5)
    points = torch.randn(2, 3 * 4 * 5, 4)
    with counting_flops() as plain:
        points @ maps.transpose(1, 2)
    with counting_flops() as count:
        functional.affine_grid(maps, size, align_corners=False)
    assert count() == plain()
