"""Training in fp16: losses are scaled, so that small gradients survive and large ones do no harm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from equality import same
from torch import nn

import lctprune as lct
from lctprune.training.group_trainer import GroupTrainer, step_settings
from lctprune.training.loss_scaling import LossScale
from lctprune.training.stage import Stage

MakeNetwork = Callable[..., lct.LocalCriticNetwork]
Method = Literal["local-critic", "joint", "backprop"]
FP16 = lct.TrainConfig(precision="fp16", device="cpu", epochs=2, batch_size=16, optimizer="sgd", distill=0.25)


def stage_of(network: lct.LocalCriticNetwork, config: lct.TrainConfig, loss: lct.Loss = lct.cross_entropy) -> Stage:
    resolved, scale = config.resolved(), LossScale("cpu") if config.precision == "fp16" else None
    return Stage([GroupTrainer(each, resolved, loss_scale=scale) for each in network.parts()], resolved, loss)


def step(stage: Stage, config: lct.TrainConfig, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    resolved = config.resolved()
    with resolved.autocast():
        stage.step(inputs, targets, step_settings(50, 100, resolved))


@pytest.mark.parametrize("method", ["local-critic", "joint"])
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_step_is_nearly_that_of_fp32(
    method: Method, optimizer: Literal["sgd", "muon"], make_network: MakeNetwork, data: lct.Data
) -> None:
    inputs, targets = next(iter(data.train.batches(16)))
    changes = []
    for precision in ("fp32", "fp16"):
        config = dataclasses.replace(FP16, method=method, optimizer=optimizer, precision=precision)
        network = make_network().eval()  # no dropout
        before = {name: each.detach().clone() for name, each in network.named_parameters()}
        step(stage_of(network, config), config, inputs, targets)
        changes.append({name: each.detach() - before[name] for name, each in network.named_parameters()})
    for name, change in changes[0].items():
        assert (changes[1][name] - change).norm() <= 0.05 * change.norm(), name
        assert change.norm() > 0, name


def test_small_gradients_survive_and_would_not_without_a_scale(make_network: MakeNetwork, data: lct.Data) -> None:
    def tiny(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 1e-7 * lct.cross_entropy(outputs, labels)

    def is_buffer(name: str) -> bool:  # of a group: critics also learn from distances, which are not small
        return ".group." in name and name.endswith("buffer")

    inputs, targets = next(iter(data.train.batches(16)))
    learnt, config = [], dataclasses.replace(FP16, weight_decay=0.0)
    for scaled in (True, False):
        network = make_network().eval()
        stage = stage_of(network, config, tiny)
        if not scaled:
            resolved = config.resolved()
            stage = Stage([GroupTrainer(each, resolved) for each in network.parts()], resolved, tiny)
        step(stage, config, inputs, targets)
        learnt.append(any(each.any().item() for name, each in stage.tensors().items() if is_buffer(name)))
    assert learnt == [True, False]


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "muon", "adamw"])
def test_a_step_whose_gradients_overflow_changes_no_weights_but_the_scale(
    optimizer: Literal["sgd", "muon", "adamw"], is_first: bool, make_network: MakeNetwork, data: lct.Data
) -> None:
    config = dataclasses.replace(FP16, optimizer=optimizer)
    network = make_network()
    stage = stage_of(network, config)
    inputs, targets = next(iter(data.train.batches(16)))
    if not is_first:
        step(stage, config, inputs, targets)
    scale = stage.trainers[0].loss_scale
    assert scale is not None
    scale.load(torch.tensor([2.0**40, 0.0]))
    before = {name: each.clone() for name, each in network.named_parameters()}
    states = {name: each.clone() for name, each in stage.tensors().items() if name.endswith(("average", "buffer"))}
    step(stage, config, inputs, targets)
    assert all(torch.equal(before[name], each) for name, each in network.named_parameters())
    assert same(states, {name: each for name, each in stage.tensors().items() if name in states})
    assert scale.state()[0] == 2.0**39
    begun = {name: each for name, each in stage.tensors().items() if name.endswith(("average", "buffer"))}
    assert not (is_first and any(each.any() for each in begun.values()))


@pytest.mark.parametrize("method", ["local-critic", "joint", "backprop"])
def test_a_training_learns_and_is_resumed_to_the_bit(
    method: Method, make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    def network() -> lct.LocalCriticNetwork:
        return (
            make_network() if method != "backprop" else lct.LocalCriticNetwork([nn.Sequential(*make_network().groups)])
        )

    config = dataclasses.replace(FP16, method=method, optimizer="muon", epochs=4)
    whole, stopped = network(), network()
    run = lct.train(whole, data, config, run_dir=tmp_path / "whole")
    for progress in lct.train_steps(stopped, data, lct.open_run(stopped, data, config, run_dir=tmp_path / "stopped")):
        if progress.epoch == 2 and progress.val_loss is not None:
            break
    again = network()
    lct.train(again, data, config, run_dir=tmp_path / "stopped", resume=True)
    assert same(dict(whole.state_dict()), dict(again.state_dict()))
    assert float(run.metrics[-1]["exit0_train_loss"]) < float(run.metrics[0]["exit0_train_loss"])
