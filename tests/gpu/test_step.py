"""Steps of training on CUDA: equal to the CPU's, and without a wait for the device."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor

import lctprune as lct
from lctprune.measure.scores import ScoreSheet
from lctprune.training.distributed.pipeline import Pipeline
from lctprune.training.group_trainer import StepSettings
from lctprune.training.stage import Stage

pytestmark = pytest.mark.gpu

METHODS = ("local-critic", "joint", "backprop")
SETTINGS = StepSettings(step=0, lr=0.05, matching=0.3, update_critics=True, distill=0.3)


def build(method: str) -> lct.LocalCriticNetwork:
    torch.manual_seed(0)
    groups = 1 if method == "backprop" else 3
    recipe = lct.NetworkConfig(model="resnet18", model_args={"width": 8}, image_size=16, groups=groups)
    return lct.build_network(recipe).train()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 3, 16, 16, generator=generator), torch.randint(10, (32,), generator=generator)


def stage_of(network: lct.LocalCriticNetwork, config: lct.TrainConfig) -> Stage:
    count = len(network.groups)
    stage = Pipeline(None, groups=count, device=config.device).stage(
        network, [range(count)], config.resolved(), lct.cross_entropy
    )
    stage.train_mode()
    return stage


def change(network: lct.LocalCriticNetwork, before: dict[str, Tensor]) -> Tensor:
    """Return how far a step has moved all weights and statistics, as one vector on the CPU."""
    return torch.cat([(each.cpu() - before[name]).double().flatten() for name, each in network.state_dict().items()])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-2)], ids=["fp64", "fp32"])
def test_a_step_equals_that_of_the_cpu(method: str, dtype: torch.dtype, tolerance: float, device: str) -> None:
    network = build(method).to(dtype)
    before = copy.deepcopy(network.state_dict())
    inputs, targets = batch()
    changes, losses = [], []
    for where in ("cpu", device):
        own = copy.deepcopy(network)
        config = lct.TrainConfig(method=method, device=where, precision="fp32", optimizer="sgd")
        stage = stage_of(own, config)
        losses.append(torch.stack([each.cpu() for each in stage.step(inputs.to(dtype), targets, SETTINGS)]))
        changes.append(change(own, before))
    torch.testing.assert_close(losses[0], losses[1], rtol=tolerance, atol=tolerance)  # fp32: convolutions use TF32
    assert changes[0].norm() > 0
    assert float((changes[1] - changes[0]).norm() / changes[0].norm()) < tolerance


def test_a_class_that_a_loss_with_weights_on_the_device_ignores_does_not_count(device: str) -> None:
    loss = functools.partial(
        torch.nn.functional.cross_entropy, weight=torch.ones(3, device=device), ignore_index=0, reduction="none"
    )
    sheet = ScoreSheet(loss)
    targets = torch.tensor([0, 1, 2, 2], device=device)
    sheet.add([torch.eye(3)[[1, 1, 2, 1]].to(device)], targets)  # wrong: what is ignored, and the last one
    assert sheet.result().accuracy == pytest.approx([2 / 3])


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_does_not_wait_for_the_device(method: str, optimizer: str, device: str) -> None:
    if device != "cuda":
        pytest.skip("only CUDA says when the host waits for it")
    config = lct.TrainConfig(method=method, device=device, optimizer=optimizer).resolved()
    network = build(method)
    stage = stage_of(network, config)
    inputs, targets = (each.to(device) for each in batch())
    with config.autocast():
        for step in range(3):
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("default" if step == 0 else "error")  # the first step makes states
            try:
                stage.step(inputs, targets, SETTINGS._replace(step=step))
            finally:
                torch.cuda.set_sync_debug_mode("default")
