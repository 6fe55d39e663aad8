"""Recomputation saves memory and changes nothing else, to the bit."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from equality import same
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import lctprune as lct
from lctprune.training.distributed.pipeline import Pipeline
from lctprune.training.group_trainer import step_settings
from lctprune.training.recomputed_parts import Memory, choose
from lctprune.training.stage import Stage

CPU = torch.profiler.ProfilerActivity.CPU


class Odd(nn.Module):
    """Overwrites what it made, keeps statistics of its own, draws, and normalises by power iteration."""

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convolution = spectral_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.register_buffer("counts", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.counts += 1
        y = self.convolution(x) * (1 + self.counts / 100)
        y += x
        return nn.functional.dropout(nn.functional.relu_(y), 0.3, self.training)


def by_hand() -> lct.LocalCriticNetwork:
    first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), Odd(), Odd())
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    return lct.LocalCriticNetwork([first, Odd(), last], [lct.make_critic("pooled", (4, 16, 16), 10) for _ in range(2)])


@functools.cache
def cut(model: str = "resnet18", groups: int = 3) -> lct.LocalCriticNetwork:
    recipe = lct.NetworkConfig(model=model, model_args={"width": 8}, image_size=16, groups=groups)
    return lct.build_network(recipe)


NETWORKS: dict[str, tuple[str, Callable[[], lct.LocalCriticNetwork]]] = {
    "local critics": ("local-critic", cut),
    "by hand": ("local-critic", by_hand),
    "blocks": ("2 blocks", cut),
    "joint": ("joint", cut),
    "joint, by hand": ("joint", by_hand),
    "backprop": ("backprop", lambda: cut(groups=1)),
}


def stage_of(network: lct.LocalCriticNetwork, method: str, recompute: str, **settings: Any) -> Stage:
    given: dict[str, Any] = {"recompute": recompute, "device": "cpu", **settings}
    given |= {"blocks": 2} if method == "2 blocks" else {"method": method}
    config = lct.TrainConfig(**given).resolved()
    count = len(network.groups)
    stage = Pipeline(None, groups=count, blocks=config.blocks).stage(network, [range(count)], config, lct.cross_entropy)
    stage.train_mode()
    return stage


def steps(stage: Stage, count: int) -> tuple[list[Tensor], int]:
    """Take steps; return their losses, and the most bytes that are allocated during the last one."""
    generator = torch.Generator().manual_seed(0)
    config, losses, peak = stage._config, [], 0
    for index in range(count):
        inputs = torch.randn(8, 3, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last)
        targets = torch.randint(10, (8,), generator=generator)
        with config.autocast(), torch.profiler.profile(activities=[CPU], profile_memory=True) as profile:
            losses += stage.step(inputs, targets, step_settings(index, 4, config))
        assert profile.profiler is not None
        events = [each for each in profile.profiler.kineto_results.events() if each.name() == "[memory]"]
        sizes = (each.nbytes() for each in sorted(events, key=lambda each: each.start_ns()))
        peak = max(itertools.accumulate(sizes))
    return losses, peak


@pytest.mark.parametrize("recompute", ["on", "auto"])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_and_statistics_are_those_without_it(name: str, recompute: str) -> None:
    method, make = NETWORKS[name]
    torch.manual_seed(0)
    plain = copy.deepcopy(make())
    again = copy.deepcopy(plain)
    precision = "bf16" if name == "joint" else "fp32"
    expected, most = steps(stage_of(plain, method, "off", precision=precision), 3)
    found, peak = steps(stage_of(again, method, recompute, precision=precision), 3)
    assert all(map(torch.equal, found, expected))
    assert same(again.state_dict(), plain.state_dict())
    assert peak <= most
    if recompute == "on" and "hand" not in name:
        assert peak < most


def test_the_largest_groups_are_recomputed() -> None:
    sizes = [Memory(100, 10, 40), Memory(50, 8, 20), Memory(25, 5, 12)]
    assert choose(sizes, freed_after=range(3)) == {0, 1}  # the peak of 100 falls to 40: then 25 is below it
    assert choose(sizes, freed_after=[0]) == {0, 1}  # 50 + 25 falls to 8 + 25, below the 40 of the first
    assert choose(sizes, freed_after=()) == {0, 1, 2}  # 10 + 8 + 25 falls to 40, the peak of the first
    assert choose([*sizes[:2], Memory(20, 5, 20)], freed_after=()) == {0, 1}  # 10 + 8 + 20 is below 40 already
    assert choose([Memory(10, 10, 20)], freed_after=[0]) == set()


def test_compiled_groups_are_not_recomputed() -> None:
    with pytest.raises(lct.ConfigError, match=r"`recompute=auto` .* `compile`"):
        lct.TrainConfig(recompute="auto", compile=True)
