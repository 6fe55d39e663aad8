"""Measuring exits: one pass, right figures, latency of the deployed form."""

from __future__ import annotations

import dataclasses
import gc
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lctprune as lct
from lctprune.data.splits import Batch
from lctprune.measure.candidates import ScoredExit, candidate_of, measure_costs, unsteady
from lctprune.measure.scores import score_exits, score_networks

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

    with pytest.warns(lct.NetworkWarning, match=r"aten\._fft_r2c"):
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


# --- networks that were not trained together ------------------------------------------------------------------------


def test_networks_side_by_side_are_scored_as_each_alone(make_network: MakeNetwork, data: lct.Data) -> None:
    networks = [make_network(seed).train() for seed in (0, 1, 2)]
    together = score_networks(networks, data.test, batch_size=7)
    assert together.samples == 30
    for place, network in enumerate(networks):
        assert network.training
        alone = score_exits(network, data.test, batch_size=7)
        assert together.accuracy[place] == alone.accuracy[-1]
        assert together.loss[place] == pytest.approx(alone.loss[-1])


def test_what_each_network_costs_stands_beside_its_own_scores(make_network: MakeNetwork, data: lct.Data) -> None:
    networks = [make_network(seed) for seed in (0, 1)]
    first, second = (score_exits(network, data.val) for network in networks)
    exits = [
        ScoredExit(7, "exit 7", networks[0].subnetwork(1), first, 1),
        ScoredExit(2, "exit 2", networks[1].subnetwork(0), second, 0, "by hand"),
    ]
    candidates = measure_costs(exits, data.example, latency_repeats=2)
    for candidate, each in zip(candidates, exits, strict=True):
        assert (candidate.exit, candidate.name, candidate.origin) == (each.exit, each.name, each.origin)
        assert candidate.accuracy == each.scores.accuracy[each.position]
        assert candidate.loss == each.scores.loss[each.position]
        assert candidate.flops == lct.count_flops(each.network, data.example)
        assert candidate.parameters == lct.count_parameters(each.network)
        assert candidate.latency_ms > 0
    assert candidate_of(candidates, 2) is candidates[1]
    with pytest.raises(lct.NetworkError, match="exit 1 does not exist; there are exits 2, 7"):
        candidate_of(candidates, 1)


def resident_mib() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.slow
def test_evaluating_again_and_again_takes_no_more_memory() -> None:
    """By itself, TorchScript keeps what was traced for ever: 5 MiB per call of this network."""
    recipe = lct.NetworkConfig(model="resnet18", model_args={"width": 8}, groups=4, num_outputs=3, image_size=8)
    network, x = lct.build_network(recipe), torch.randn(6, 3, 8, 8)
    split = lct.TensorSplit(x, torch.arange(6) % 3)
    for _ in range(3):
        lct.evaluate(network, split, x, latency_repeats=2)
    before = resident_mib()
    for _ in range(50):
        lct.evaluate(network, split, x, latency_repeats=2)
    assert resident_mib() - before < 10


def test_latencies_of_a_busy_machine_are_named() -> None:
    costs = {"accuracy": 0.5, "loss": 1.0, "flops": 1, "macs": 1, "parameters": 1, "size_bytes": 1}
    quiet = lct.Candidate(exit=0, name="a", latency_ms=2, latency_p5_ms=1.8, latency_p95_ms=9.0, **costs)
    busy = lct.Candidate(exit=1, name="b", latency_ms=2, latency_p5_ms=1.4, latency_p95_ms=30.5, **costs)
    vague = dataclasses.replace(quiet, latency_low_ms=1.8, latency_high_ms=2.4)
    unknown = lct.Candidate(exit=2, name="c", latency_ms=None, **costs)
    assert unsteady([quiet, unknown]) == ""
    assert "vary by 22 times (b: 1.4 to 30.5 ms)" in unsteady([quiet, busy, unknown])
    assert "vary by 5.0 times" in unsteady([vague])
