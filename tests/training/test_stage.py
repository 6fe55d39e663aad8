"""A step of training is the update rule with optimisers, in one stage or in a row of them."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from equality import same
from torch import Tensor, nn

import lctprune as lct
from lctprune.config.training import ResolvedTrainConfig
from lctprune.optim.optimizers import Optimizers, apply_gradients
from lctprune.training.blocks import block_ends
from lctprune.training.group_trainer import GroupTrainer, StepSettings, step_settings
from lctprune.training.joint import joint_step
from lctprune.training.links import Links, Message
from lctprune.training.stage import Stage
from lctprune.update import DISTILL, MATCHING

MakeNetwork = Callable[..., lct.LocalCriticNetwork]


# --- one step gives the gradients of `local_critic_backward`, to the bit ----------------------------------------------


class Slice(nn.Module):
    """Gives a view with gaps."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2, :, ::2]


class Turn(nn.Module):
    """Gives a view of a tensor that is dense in memory, in an unusual order."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


def strided(first: nn.Module, shape: tuple[int, int, int]) -> lct.LocalCriticNetwork:
    channels, height, width = shape
    groups = [
        nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), first),
        nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    ]
    critics = [
        nn.Sequential(nn.BatchNorm2d(depth), nn.Flatten(), nn.Linear(depth * height * width, 4))
        for depth in (channels, 8)
    ]
    return lct.LocalCriticNetwork(groups, critics)


def with_dropout() -> lct.LocalCriticNetwork:
    groups = [
        nn.Sequential(nn.Conv2d(before, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        for before in (3, 8)
    ]
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return lct.LocalCriticNetwork([*groups, last], [lct.make_critic("tail", (8, 8, 8), 4) for _ in groups])


def with_an_empty_group() -> lct.LocalCriticNetwork:
    groups = [nn.Flatten(), nn.Sequential(nn.Linear(192, 16), nn.LayerNorm(16), nn.GELU()), nn.Linear(16, 4)]
    return lct.LocalCriticNetwork(groups, [nn.Linear(192, 4), nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 4))])


NETWORKS: dict[str, Callable[[], lct.LocalCriticNetwork]] = {
    "view with gaps": lambda: strided(Slice(), (8, 8, 4)),
    "turned view": lambda: strided(Turn(), (8, 16, 8)),
    "dropout": with_dropout,
    "empty group": with_an_empty_group,
    "no critics": lambda: lct.LocalCriticNetwork([nn.Sequential(nn.Flatten(), nn.Linear(192, 4))]),
}


def seed_as(trainers: Sequence[GroupTrainer], settings: StepSettings) -> None:
    """Let each module find the random generator where training puts it."""

    def before(trainer: GroupTrainer, part: Any) -> Callable[..., None]:
        return lambda *_: trainer.seed(part, settings)

    for trainer in trainers:
        trainer.group.register_forward_pre_hook(before(trainer, "group"))
        if trainer.critic is not None:
            trainer.critic.register_forward_pre_hook(before(trainer, "critic"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_training_has_the_gradients_of_the_public_function(name: str, precision: str) -> None:
    """Both with their defaults, training halfway: equal to the bit, as are losses and running statistics."""
    torch.manual_seed(1)
    network = NETWORKS[name]().to(memory_format=torch.channels_last).train()
    inputs = torch.randn(6, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(4, (6,))
    expected = copy.deepcopy(network)
    config = lct.TrainConfig(method="local-critic", precision=precision, device="cpu").resolved()
    settings = step_settings(50, 100, config)
    assert (settings.matching, settings.distill) == (MATCHING, DISTILL)

    found: list[Tensor | None] = []

    def record(parameters: Iterable[nn.Parameter]) -> None:
        found.extend(None if each.grad is None else each.grad.clone() for each in parameters)

    trainers = [GroupTrainer(part, config, all_reduce_gradients=record) for part in network.parts()]
    stage = Stage(trainers, config, lct.cross_entropy)
    reference = [GroupTrainer(part, config) for part in expected.parts()]
    seed_as(reference, settings)
    with config.autocast():
        losses = stage.step(inputs, targets, settings)
        expected_losses = lct.local_critic_backward(expected, inputs, targets)

    # groups learn in their order, and each critic after the group behind it
    order = [*expected.groups[:1]]
    for index, critic in enumerate(expected.critics):
        order += [expected.groups[index + 1], critic]
    gradients = [
        each.grad for module in order if any(True for _ in module.parameters()) for each in module.parameters()
    ]
    assert len(found) == len(gradients) == len(list(network.parameters()))
    assert all(ours is not None and torch.equal(ours, theirs) for ours, theirs in zip(found, gradients, strict=True))
    assert all(map(torch.equal, losses, expected_losses))
    assert same(dict(network.named_buffers()), dict(expected.named_buffers()))


# --- stages in a row --------------------------------------------------------------------------------------------------


class Mailbox:
    """One end of a link between two stages of one process."""

    def __init__(self, outgoing: deque[Message], incoming: deque[Message]) -> None:
        self.seconds_waited = 0.0
        self._outgoing, self._incoming = outgoing, incoming

    def send(self, note: Mapping[str, Any] | None = None, tensors: Sequence[Tensor] = ()) -> None:
        self._outgoing.append(Message({**(note or {})}, [tensor.detach() for tensor in tensors]))

    def receive(self) -> Message:
        return self._incoming.popleft()

    def close(self) -> None:
        assert not self._incoming


def row(
    network: lct.LocalCriticNetwork, config: ResolvedTrainConfig, sizes: Sequence[int], lasts: Sequence[int] = ()
) -> list[Stage]:
    """Stages of so many groups each, linked as processes are."""
    trainers = [GroupTrainer(part, config) for part in network.parts()]
    stages, previous = [], None
    for number, size in enumerate(sizes):
        ends: tuple[deque[Message], deque[Message]] = deque(), deque()
        following = Mailbox(*ends) if number < len(sizes) - 1 else None
        links = Links(source=previous, previous=previous, next=following)
        stages.append(Stage(trainers[:size], config, lct.cross_entropy, links=links, ends=lasts))
        trainers, previous = trainers[size:], Mailbox(*reversed(ends))
    return stages


def deterministic(network: lct.LocalCriticNetwork) -> lct.LocalCriticNetwork:
    """Switch off dropout, whose masks training seeds module by module."""
    for module in network.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


@pytest.mark.parametrize("matching", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("period", [1, 2])
@pytest.mark.parametrize("sizes", [[3], [1, 2], [1, 1, 1]], ids=str)
def test_stages_do_what_the_update_rule_and_the_optimisers_do(
    matching: float, period: int, sizes: list[int], make_network: MakeNetwork, data: lct.Data
) -> None:
    """Whether a critic learns at once or after the next forward pass of its group makes no difference."""
    config = lct.TrainConfig(
        matching=matching, distill=0.3, critic_period=period, label_smoothing=0.0, precision="fp32"
    ).resolved()
    expected, network = deterministic(make_network()), deterministic(make_network())
    optimizers = [Optimizers(group, critic, config) for _, group, critic in expected.parts()]
    first, *others = row(network, config, sizes)
    for step, (inputs, targets) in zip(range(5), data.train.shuffled(8, seed=0), strict=False):
        settings = step_settings(step, 5, config)
        expected_losses = lct.local_critic_backward(
            expected, inputs, targets, matching=matching, distill=0.3, critic_update=settings.update_critics
        )
        for each in optimizers:
            for part, optimizer in each.all.items():
                if part == "group" or settings.update_critics:
                    apply_gradients(optimizer, settings.lr)
        losses = first.step(inputs, targets, settings)
        for stage in others:
            assert stage.links.source is not None
            losses += stage.step(*stage.links.source.receive().tensors, settings)
        assert all(map(torch.equal, losses, expected_losses))
    for stage in (first, *others):
        stage.flush_critic_update()
        for link in stage.links.all:
            link.close()
    assert same(network.state_dict(), expected.state_dict())


@pytest.mark.parametrize(
    ("sizes", "blocks"), [([1, 2], None), ([1, 1, 1], None), ([1, 2], 2), ([2, 1], 3), ([1, 1, 1], 3)], ids=str
)
def test_blocks_averages_mixtures_and_accumulation_are_those_of_one_process(
    sizes: list[int], blocks: int | None, make_network: MakeNetwork, data: lct.Data
) -> None:
    changes = {
        "blocks": blocks,
        "critic_period": 2,
        "ema": 0.8,
        "mixup": 0.4,
        "cutmix": 1.0,
        "accumulate": 2,
        "clip_grad_norm": 0.5,
    }
    config = lct.TrainConfig(epochs=1, matching=0.5, distill=0.3, precision="fp32", **changes).resolved()  # type: ignore[arg-type]
    found = []
    for each in ([3], sizes):
        first, *others = row(make_network().train(), config, each, block_ends(3, blocks) if blocks else ())
        for step, (inputs, targets) in zip(range(6), data.train.shuffled(8, seed=0), strict=False):
            settings = step_settings(step, 6, config)
            first.step(inputs, targets, settings)
            for stage in others:
                assert stage.links.source is not None
                stage.step(*stage.links.source.receive().tensors, settings)
        for stage in (first, *others):
            stage.flush_critic_update()
            for link in stage.links.all:
                link.close()
        found.append({name: tensor for stage in (first, *others) for name, tensor in stage.tensors().items()})
    assert same(*found)
    assert any(name.startswith("live.critics.1.") for name in found[0])


def test_joint_training_is_backpropagation_of_all_losses(make_network: MakeNetwork, data: lct.Data) -> None:
    config = lct.TrainConfig(method="joint", label_smoothing=0.0, precision="fp32").resolved()
    expected, network = deterministic(make_network()), deterministic(make_network())
    optimizers = [Optimizers(group, critic, config) for _, group, critic in expected.parts()]
    (stage,) = row(network, config, [3])
    for step, (inputs, targets) in zip(range(5), data.train.shuffled(8, seed=0), strict=False):
        settings = step_settings(step, 5, config)
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


def test_nothing_has_gradients_left_after_a_step(make_network: MakeNetwork, data: lct.Data) -> None:
    config = lct.TrainConfig(precision="fp32").resolved()
    network = make_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if name.endswith("weight")}
    (stage,) = row(network, config, [3])
    stage.step(*next(iter(data.train.batches(8))), step_settings(0, 5, config))
    assert all(not torch.equal(before[name], network.state_dict()[name]) for name in before)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_joint_training_frees_each_critic_before_the_next_group_runs(make_network: MakeNetwork, data: lct.Data) -> None:
    network = make_network().train()
    inputs, targets = next(iter(data.train.batches(8)))
    events = [
        (type(event).__name__, event.index, getattr(event, "part", ""))
        for event in joint_step(network.parts(), inputs, targets, loss=lct.cross_entropy)
    ]
    assert events.index(("Gradient", 0, "critic")) < events.index(("BeforeGroup", 1, ""))
    assert events.index(("Gradient", 1, "critic")) < events.index(("BeforeGroup", 2, ""))
