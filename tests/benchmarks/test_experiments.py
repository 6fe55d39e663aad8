"""The experiments among the benchmark scripts: training in blocks, and how variants are compared."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import lctprune as lct
from lctprune.update import Objective, local_critic_step

MakeNetwork = Callable[..., lct.LocalCriticNetwork]
OBJECTIVE = Objective(0.3, 0.4)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module


def gradients(network: lct.LocalCriticNetwork) -> dict[str, Tensor]:
    return {name: each.grad for name, each in network.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_groups_of_a_block_learn_from_its_exits(
    blocks: int, script: Callable[[str], ModuleType], make_network: MakeNetwork
) -> None:
    network = make_network().double().eval()  # without dropout
    local, whole = copy.deepcopy(network), copy.deepcopy(network)
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.double), torch.arange(6) % 3
    step = script("blocks").block_step(
        network.parts(), x, y, loss=lct.cross_entropy, objective=OBJECTIVE, blocks=blocks
    )
    list(step)
    list(local_critic_step(local.parts(), x, y, loss=lct.cross_entropy, objective=OBJECTIVE))
    last = {1: (2,), 2: (0, 2), 3: (0, 1, 2)}[blocks]  # groups at the end of a block
    losses, output = [], x
    for index, group, critic in whole.parts():
        output = group(output)
        losses.append(lct.cross_entropy(output if critic is None else critic(output), y).mean())
        output = output.detach() if index in last else output
    torch.autograd.backward(torch.stack(losses).sum())
    own = gradients(network)
    assert own.keys() == gradients(local).keys()
    for name, gradient in own.items():
        expected = gradients(whole if name.startswith("groups") else local)[name]
        torch.testing.assert_close(gradient, expected, msg=name)


def test_variants_are_compared_by_seed(script: Callable[[str], ModuleType]) -> None:
    ablation = script("ablation")
    accuracies = {
        (ablation.DEFAULT, "0"): "0.5 0.6",
        (ablation.DEFAULT, "1"): "0.7 0.8",
        ("joint", "0"): "0.51 0.63",
        ("joint", "1"): "0.72 0.8",
        ("backprop", "1"): "0.78",
        ("alone 0", "1"): "0.75",
        ("3 groups", "1"): "0.1 0.2 0.3",
    }
    rows = [{"variant": name, "seed": seed, "accuracies": text} for (name, seed), text in accuracies.items()]
    found = ablation.differences(rows)
    assert found.keys() == {"joint", "backprop", "alone 0"}
    assert found["joint"] == [pytest.approx((1.5, 0.5, 2)), pytest.approx((1.5, 1.5, 2))]
    assert found["backprop"][0][0] == pytest.approx(-2)
    assert found["alone 0"][0][0] == pytest.approx(5)
    assert math.isnan(found["backprop"][0][1])
