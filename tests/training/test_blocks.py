"""Training in blocks: what a group learns from, what is held in memory, and which settings fit."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import same
from torch import Tensor, nn

import lctprune as lct
from lctprune.training.blocks import block_ends, block_step
from lctprune.training.distributed.pipeline import assign_groups, require_processes
from lctprune.update import BeforeGroup, Objective, local_critic_step

MakeNetwork = Callable[..., lct.LocalCriticNetwork]
OBJECTIVE = Objective(0.3, 0.4)


def gradients(network: lct.LocalCriticNetwork) -> dict[str, Tensor]:
    return {name: each.grad for name, each in network.named_parameters() if each.grad is not None}


def reference(network: lct.LocalCriticNetwork, x: Tensor, y: Tensor, ends: Sequence[int]) -> dict[str, Tensor]:
    """Write the rule down, one parameter after the other."""
    found: dict[str, Tensor] = {}
    h, block, exits = x, [], []
    for index, group, critic in network.parts():
        h = group(h)
        exits.append(h if critic is None else critic(h))
        block.append(index)
        if index not in ends:
            continue
        for each in block:
            loss = sum(lct.cross_entropy(exits[later], y).mean() for later in block if later >= each)
            parameters = dict(network.groups[each].named_parameters(prefix=f"groups.{each}"))
            found |= zip(parameters, torch.autograd.grad(loss, parameters.values(), retain_graph=True), strict=True)
        h, block = h.detach(), []
    m, w, distance = OBJECTIVE
    for index, critic in enumerate(network.critics):
        own, following = (lct.cross_entropy(each, y) for each in exits[index : index + 2])
        loss = (1 - w) * ((1 - m) * own + m * (own - following.detach()).abs())
        loss = (loss + w * distance(exits[index], exits[index + 1].detach())).mean()
        parameters = dict(critic.named_parameters(prefix=f"critics.{index}"))
        found |= zip(parameters, torch.autograd.grad(loss, parameters.values(), retain_graph=True), strict=True)
    return found


@pytest.mark.parametrize("ends", [(2,), (0, 2), (1, 2), (0, 1, 2)], ids=str)
def test_groups_of_a_block_learn_from_its_exits(ends: tuple[int, ...], make_network: MakeNetwork) -> None:
    network = make_network().double().eval()  # without dropout
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.double), torch.arange(6) % 3
    expected = reference(network, x, y, ends)
    local = copy.deepcopy(network)
    list(block_step(network.parts(), x, y, loss=lct.cross_entropy, objective=OBJECTIVE, ends=ends))
    found = gradients(network)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    list(local_critic_step(local.parts(), x, y, loss=lct.cross_entropy, objective=OBJECTIVE))
    assert same(found, gradients(local)) == (len(ends) == 3)  # to the bit, where each group is a block


def test_the_graph_of_a_block_is_freed_at_its_end(make_network: MakeNetwork) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor
            alive.add(self)

    held = []
    step = block_step(
        make_network().parts(), torch.randn(6, 1, 8, 8), torch.arange(6) % 3, loss=lct.cross_entropy, objective=None,
        ends=(1, 2),
    )  # fmt: skip
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        for event in step:
            if isinstance(event, BeforeGroup):
                held.append(len(alive))
    assert held[0] == held[2] == len(alive) == 0
    assert held[1] > 0


def test_blocks_are_even_and_a_process_holds_whole_ones() -> None:
    assert [block_ends(4, blocks) for blocks in (1, 2, 3, 4)] == [[3], [1, 3], [0, 1, 3], [0, 1, 2, 3]]
    assert assign_groups(4, 2, blocks=2) == [range(2), range(2, 4)]
    seconds = [9.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert assign_groups(6, 2, seconds) == [range(1), range(1, 6)]
    assert assign_groups(6, 2, seconds, blocks=3) == [range(2), range(2, 6)]
    require_processes(2, groups=4, blocks=2)
    with pytest.raises(lct.ConfigError, match=r"3 processes for 2 blocks: .*`blocks`"):
        require_processes(3, groups=4, blocks=2)


def test_the_setting_changes_what_is_learnt_and_is_recorded(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    learnt = {}
    for name, settings in {
        "1": {"blocks": 1},
        "2": {"blocks": 2},
        "3": {"blocks": 3},
        "local": {"method": "local-critic"},
        "joint": {"method": "joint"},
    }.items():
        network = make_network()
        config = lct.TrainConfig(epochs=1, batch_size=16, precision="fp32", **settings)  # type: ignore[arg-type]
        run = lct.train(network, data, config, run_dir=tmp_path / name)
        assert run.config.training.blocks == settings.get("blocks")
        assert run.config.training.method == ("joint" if name == "joint" else "local-critic")
        learnt[name] = network.state_dict()
    assert same(learnt.pop("3"), learnt["local"])
    weights = [each["groups.0.0.weight"] for each in learnt.values()]
    assert len({tuple(each.flatten().tolist()) for each in weights}) == 4


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"blocks": 0}, "blocks is 0; it must be at least 1"),
        ({"blocks": 2, "method": "joint"}, "`method=joint`"),
        ({"blocks": 2, "method": "backprop"}, "`method=backprop`"),
        ({"blocks": 2, "freeze_main": True}, "`freeze_main`"),
        ({"blocks": 2, "diagnostics": True}, "`diagnostics`"),
    ],
)
def test_blocks_are_of_local_critics(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(lct.ConfigError, match=named):
        lct.TrainConfig(**settings)


def test_there_are_no_more_blocks_than_groups(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    with pytest.raises(lct.ConfigError, match="blocks is 4, and there are 3 groups"):
        lct.train(make_network(), data, lct.TrainConfig(epochs=1, blocks=4), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_group_that_changes_its_input_is_refused() -> None:
    groups = [nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)]
    network = lct.LocalCriticNetwork(groups, [nn.Linear(4, 3), nn.Linear(4, 3)])
    step = block_step(
        network.parts(), torch.randn(2, 4), torch.zeros(2).long(), loss=lct.cross_entropy, objective=None, ends=(2,)
    )
    with pytest.raises(lct.NetworkError, match="group 1 changes its input in place"):
        list(step)
