"""Running statistics of batch norm are of the weights that they are used with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import lctprune as lct
from lctprune.training.recalibration import statistics_of_an_epoch

MakeNetwork = Callable[..., lct.LocalCriticNetwork]


def momenta(network: nn.Module) -> list[float | None]:
    return [each.momentum for each in network.modules() if isinstance(each, nn.BatchNorm2d)]


def with_momentum(network: lct.LocalCriticNetwork, momentum: float) -> lct.LocalCriticNetwork:
    for each in network.groups.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.momentum = momentum
    return network


def test_few_steps_are_evaluated_by_statistics_of_their_own(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    config = lct.TrainConfig(epochs=2, batch_size=16, precision="fp32", device="cpu")
    usual, slow = make_network(), with_momentum(make_network(), 0.001)
    lct.train(usual, data, config, run_dir=tmp_path / "usual")
    lct.train(slow, data, config, run_dir=tmp_path / "slow")
    assert all(torch.equal(value, slow.state_dict()[name]) for name, value in usual.state_dict().items())
    assert set(momenta(slow.groups)) == {0.001}  # the caller's network keeps its own


@pytest.mark.parametrize(
    ("momentum", "steps", "expected"),
    [(0.01, 6, 0.1), (0.01, 100, 0.03), (0.01, 3000, 0.01), (0.1, 6, 0.1), (0.5, 6, 0.5), (0.0, 6, 0.0)],
)
def test_statistics_are_at_most_an_epoch_old(
    momentum: float, steps: int, expected: float, make_network: MakeNetwork
) -> None:
    groups = with_momentum(make_network(), momentum).groups
    with statistics_of_an_epoch(groups, steps):
        assert momenta(groups) == pytest.approx([expected] * 3)
    assert momenta(groups) == [momentum] * 3
    assert expected == momentum or (1 - expected) ** steps < 0.6  # what is left of the epoch before
