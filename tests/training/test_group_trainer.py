"""What one group's trainer keeps, and what critics of a regression learn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lctprune as lct
from lctprune.losses import softened_distance
from lctprune.training.compilation import compilation
from lctprune.training.group_trainer import GroupTrainer, StepSettings, tensors_of
from lctprune.training.stage import Stage

MakeNetwork = Callable[..., lct.LocalCriticNetwork]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_all_of_many_groups_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # fast, and says as much
    layers = [torch.nn.Linear(4, 4) for _ in range(10)]
    network = lct.attach_critics(torch.nn.Sequential(*layers), torch.zeros(1, 4), num_outputs=4, groups=10)
    config = lct.TrainConfig(compile=True, device="cpu").resolved()
    trainers = [GroupTrainer(part, config) for part in network.parts()]
    stage = Stage(trainers, config, lct.cross_entropy)
    with compilation(config):
        stage.step(torch.randn(4, 4), torch.arange(4), StepSettings(0, 0.01, 0, True))
    assert counters["frames"]["total"] == counters["frames"]["ok"] >= 10


def test_a_trainer_finds_its_own_tensors_in_a_checkpoint(make_network: MakeNetwork) -> None:
    config = lct.TrainConfig().resolved()
    trainers = [GroupTrainer(part, config) for part in make_network().parts()]
    checkpoint = {name: tensor for trainer in trainers for name, tensor in trainer.tensors().items()}
    parts = [tensors_of(index, checkpoint) for index in range(len(trainers))]
    assert [part.keys() for part in parts] == [trainer.tensors().keys() for trainer in trainers]
    other = [GroupTrainer(part, config) for part in make_network(seed=1).parts()]
    for trainer in other:
        trainer.load(checkpoint)
    again = {name: tensor for trainer in other for name, tensor in trainer.tensors().items()}
    assert all(torch.equal(again[name], tensor) for name, tensor in checkpoint.items())


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


def test_a_loss_of_ones_own_on_numbers_tells_how_far_outputs_are(tmp_path: Path) -> None:
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
        settings = {"method": "local-critic"} | settings
        config = lct.TrainConfig(epochs=1, batch_size=8, optimizer="sgd", **settings)
        lct.train(network, data, config, run_dir=tmp_path / name, loss=huber, distance=distance)
        return critic.weight

    assert torch.equal(critic_after("own"), critic_after("said", distance=huber))  # it is lowest at the target
    assert not torch.equal(critic_after("none", distill=0), critic_after("huber", distance=huber))
    critic_after("joint", method="joint")  # nothing is distilled


def bce(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    losses = torch.nn.functional.binary_cross_entropy_with_logits(output, target.float(), reduction="none")
    return losses.mean(1)


def soft(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return -(target * output.log_softmax(1)).sum(1)


@pytest.mark.parametrize(
    ("targets", "loss", "distance"),
    [
        (torch.eye(3)[torch.arange(16) % 3] + torch.eye(3)[torch.arange(16) % 2], bce, lct.mean_squared_error),
        ((torch.arange(48).reshape(16, 3) % 5 < 2).long(), bce, lct.mean_squared_error),
        (torch.eye(3)[torch.arange(16) % 3] * 0.7 + 0.1, soft, softened_distance),
        (torch.arange(16) % 3, torch.nn.CrossEntropyLoss(reduction="none"), softened_distance),
    ],
    ids=["labels", "integer labels", "probabilities", "classes"],
)
def test_the_targets_tell_by_what_critics_distil(
    targets: torch.Tensor, loss: Any, distance: Any, tmp_path: Path
) -> None:
    targets = targets.clamp(max=1)
    split = lct.TensorSplit(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), targets)
    data = lct.Data(train=split, val=split, test=split, classes=())
    weights = []
    for name, given in (("default", None), ("given", distance)):
        torch.manual_seed(1)
        network = lct.LocalCriticNetwork([torch.nn.Linear(3, 4), torch.nn.Linear(4, 3)], [torch.nn.Linear(4, 3)])
        config = lct.TrainConfig(epochs=1, batch_size=8, optimizer="sgd", distill=0.5)
        lct.train(network, data, config, run_dir=tmp_path / name, loss=loss, distance=given)
        weights.append(network.critics[0].weight)
    assert torch.equal(*weights)
