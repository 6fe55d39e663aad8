"""A row of workers is the update rule with optimisers, and each of them is on its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lctprune as lct
from lctprune.optim.optimizers import Optimizers, apply_gradients
from lctprune.training.stage import Stage
from lctprune.training.worker import Worker, step_settings, tensors_of
from lctprune.update import Exit

MakeNetwork = Callable[..., lct.LocalCriticNetwork]


def make_workers(network: lct.LocalCriticNetwork, config: lct.TrainConfig) -> list[Worker]:
    critics = [*network.critics, None]
    return [
        Worker(index, group, critic, config)
        for index, (group, critic) in enumerate(zip(network.groups, critics, strict=True))
    ]


def deterministic(make_network: MakeNetwork) -> lct.LocalCriticNetwork:
    """Without dropout, whose masks are drawn by worker."""
    network = make_network().train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return network


@pytest.mark.parametrize("matching", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("period", [1, 2])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_workers_do_what_the_update_rule_and_the_optimisers_do(
    matching: float, period: int, late: bool, make_network: MakeNetwork, data: lct.Data
) -> None:
    """Whether a critic learns at once or after the next forward pass of its group makes no difference."""
    config = lct.TrainConfig(
        matching=matching, distill=0.3, critic_period=period, label_smoothing=0.0, precision="fp32"
    ).resolved()
    expected, network = deterministic(make_network), deterministic(make_network)
    optimizers = [Optimizers(worker.group, worker.critic, config) for worker in make_workers(expected, config)]
    workers = make_workers(network, config)
    waiting: list[Exit] = []
    for position, (inputs, targets) in zip(range(5), data.train.shuffled(8, seed=0), strict=False):
        settings = step_settings(position, 5, config)
        lct.local_critic_backward(
            expected, inputs, targets, matching=matching, distill=0.3, critic_update=settings.update_critics
        )
        for each in optimizers:
            for part, optimizer in each.all.items():
                if part == "group" or settings.update_critics:
                    apply_gradients(optimizer, settings.lr)
        x, exits = inputs, []
        for index, worker in enumerate(workers):
            x = worker.forward(x, settings)
            if worker.awaits_exit:
                worker.update_critic(*waiting[index + 1])
            exits.append(worker.run_exit(targets, lct.cross_entropy, settings))
            worker.backward(settings)
            if index and not late and settings.update_critics:
                workers[index - 1].update_critic(*exits[-1])
        waiting = exits
    for index, worker in enumerate(workers):
        if worker.awaits_exit:
            worker.update_critic(*waiting[index + 1])
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in expected.state_dict().items())


def test_a_group_has_no_gradients_left_after_it_has_learnt(make_network: MakeNetwork, data: lct.Data) -> None:
    config = lct.TrainConfig(precision="fp32").resolved()
    network = make_network().train()
    worker = make_workers(network, config)[0]
    inputs, targets = next(iter(data.train.batches(8)))
    before = {name: tensor.clone() for name, tensor in worker.group.state_dict().items()}
    settings = step_settings(0, 5, config)
    worker.forward(inputs, settings)
    worker.run_exit(targets, lct.cross_entropy, settings)
    worker.backward(settings)
    assert any(not torch.equal(before[name], tensor) for name, tensor in worker.group.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_worker_finds_its_own_tensors_in_a_checkpoint(make_network: MakeNetwork) -> None:
    network = make_network()
    workers = make_workers(network, lct.TrainConfig().resolved())
    checkpoint = {name: tensor for worker in workers for name, tensor in worker.tensors().items()}
    parts = [tensors_of(index, checkpoint) for index in range(len(workers))]
    assert [part.keys() for part in parts] == [worker.tensors().keys() for worker in workers]
    other = make_workers(make_network(seed=1), lct.TrainConfig().resolved())
    for worker in other:
        worker.load(checkpoint)
    again = {name: tensor for worker in other for name, tensor in worker.tensors().items()}
    assert all(torch.equal(again[name], tensor) for name, tensor in checkpoint.items())


def test_joint_training_is_backpropagation_of_all_losses(make_network: MakeNetwork, data: lct.Data) -> None:
    config = lct.TrainConfig(method="joint", label_smoothing=0.0, precision="fp32").resolved()
    expected, network = deterministic(make_network), deterministic(make_network)
    optimizers = [Optimizers(worker.group, worker.critic, config) for worker in make_workers(expected, config)]
    stage = Stage(make_workers(network, config), config, lct.cross_entropy)
    for position, (inputs, targets) in zip(range(5), data.train.shuffled(8, seed=0), strict=False):
        settings = step_settings(position, 5, config)
        outputs = expected.exits(inputs)
        sum(torch.nn.functional.cross_entropy(output, targets) for output in outputs).backward()
        for each in optimizers:
            for optimizer in each.all.values():
                apply_gradients(optimizer, settings.lr)
        losses = stage.step(inputs, targets, settings)
        for output, exit_losses in zip(outputs, losses, strict=True):
            torch.testing.assert_close(exit_losses, lct.cross_entropy(output, targets).detach())
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_critic_of_a_regression_learns_the_next_exits_numbers(tmp_path: Path) -> None:
    """One step of plain SGD on nothing but the squared distance, written out."""
    torch.manual_seed(0)
    group, critic, last = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)
    split = lct.TensorSplit(torch.randn(8, 3), torch.randn(8, 1))
    data = lct.Data(train=split, val=split, test=split, classes=())
    hidden = group(split.inputs).detach()
    objective = (critic(hidden) - last(hidden).detach()).square().mean()
    (expected,) = torch.autograd.grad(objective, critic.weight)
    before = critic.weight.detach().clone()
    config = lct.TrainConfig(
        epochs=1, batch_size=8, distill=1.0, optimizer="sgd", momentum=1e-9, weight_decay=0.0, warmup=0.0, lr=0.1
    )
    lct.train(lct.LocalCriticNetwork([group, last], [critic]), data, config, run_dir=tmp_path / "run")
    torch.testing.assert_close((before - critic.weight) / 0.1, expected, rtol=1e-4, atol=1e-6)


def test_a_loss_of_ones_own_on_numbers_says_how_far_outputs_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    split = lct.TensorSplit(torch.randn(16, 3), torch.randn(16, 1))
    data = lct.Data(train=split, val=split, test=split, classes=())

    def huber(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.huber_loss(output, target, reduction="none").mean(1)

    def critic_after(name: str, **settings: Any) -> torch.Tensor:
        torch.manual_seed(1)
        critic = torch.nn.Linear(4, 1)
        network = lct.LocalCriticNetwork([torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)], [critic])
        distance = settings.pop("distance", None)
        config = lct.TrainConfig(epochs=1, batch_size=8, optimizer="sgd", **settings)
        lct.train(network, data, config, run_dir=tmp_path / name, loss=huber, distance=distance)
        return critic.weight

    with pytest.raises(lct.ConfigError, match=r"distance=\.\.\.\), or that critics do not distil \(distill=0\)"):
        critic_after("unknown")
    assert not torch.equal(critic_after("none", distill=0), critic_after("huber", distance=huber))
    critic_after("joint", method="joint")  # nothing is distilled
