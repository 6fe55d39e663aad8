"""Measuring exits: one pass, right figures, latency of the deployed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import lctprune as lct
from lctprune.scores import score_exits
from lctprune.splits import Batch

MakeNetwork = Callable[..., lct.LocalCriticNetwork]


def test_accuracy_and_loss_are_those_of_each_subnetwork(make_network: MakeNetwork, data: lct.Data) -> None:
    network = make_network().eval()
    candidates = lct.evaluate(network, data.val, data.example, batch_size=7, latency_repeats=0)
    inputs, targets = next(data.val.batches(30))
    for candidate in candidates:
        with torch.no_grad():
            output = network.subnetwork(candidate.exit)(inputs)
        assert candidate.accuracy == pytest.approx((output.argmax(1) == targets).double().mean().item())
        assert candidate.loss == pytest.approx(nn.functional.cross_entropy(output, targets).item(), rel=1e-5)
        assert candidate.samples == 30
        low, high = candidate.accuracy_interval
        assert 0 <= low <= candidate.accuracy <= high <= 1


def test_costs_are_those_of_each_subnetwork(make_network: MakeNetwork, data: lct.Data) -> None:
    network = make_network()
    for candidate in lct.evaluate(network, data.val, data.example, latency_repeats=3):
        subnetwork = network.subnetwork(candidate.exit)
        assert candidate.flops == lct.count_flops(subnetwork, data.example) == 2 * candidate.macs
        assert candidate.parameters == lct.count_parameters(subnetwork)
        assert candidate.size_bytes == lct.size_bytes(subnetwork)
        assert 0 < candidate.latency_p5_ms <= candidate.latency_ms <= candidate.latency_p95_ms
    assert [candidate.name for candidate in lct.evaluate(network, data.val, data.example, latency_repeats=0)] == [
        "exit 0",
        "exit 1",
        "main network",
    ]


def test_each_group_runs_once_a_batch(make_network: MakeNetwork, data: lct.Data) -> None:
    network = make_network()
    calls = []
    for index, group in enumerate(network.groups):
        group.register_forward_hook(lambda *_, index=index: calls.append(index))
    score_exits(network, data.val, batch_size=10)
    assert calls == [0, 1, 2] * 3


def test_the_mode_of_every_module_is_put_back(make_network: MakeNetwork, data: lct.Data) -> None:
    network = make_network().train()
    network.groups[0][1].eval()
    before = {name: module.training for name, module in network.named_modules()}
    statistics = network.groups[2][1].running_mean.clone()
    lct.evaluate(network, data.val, data.example, latency_repeats=1)
    assert {name: module.training for name, module in network.named_modules()} == before
    assert torch.equal(statistics, network.groups[2][1].running_mean)


def test_a_missing_flop_formula_is_a_missing_value(data: lct.Data) -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:  # [batch, 1, 8, 8] -> [batch, 3]
            return torch.fft.fft(x[:, 0, 0, :3]).real

    (candidate,) = lct.evaluate(lct.LocalCriticNetwork([Spectrum()]), data.val, data.example, latency_repeats=0)
    assert candidate.flops is None
    assert candidate.macs is None
    assert candidate.latency_ms is None


def test_channels_last_changes_no_cost(make_network: MakeNetwork, data: lct.Data) -> None:
    plain = lct.evaluate(make_network(), data.val, data.example, latency_repeats=0)
    network = make_network().to(memory_format=torch.channels_last)
    assert [candidate.flops for candidate in lct.evaluate(network, data.val, data.example, latency_repeats=0)] == [
        candidate.flops for candidate in plain
    ]


def test_an_empty_split_is_refused(make_network: MakeNetwork, data: lct.Data) -> None:
    class Empty:
        targets = torch.empty(0)

        def batches(self, batch_size: int) -> Iterator[Batch]:
            return iter(())

        def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
            return iter(())

    with pytest.raises(lct.DataError, match="no samples"):
        lct.evaluate(make_network(), Empty(), data.example)
