"""Training: what it learns, what it writes, that it can be repeated and resumed, that every setting does something."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import lctprune as lct
from lctprune.losses import mean_squared_error
from lctprune.measure.scores import score_exits
from lctprune.optim.muon import Muon
from lctprune.optim.optimizers import Optimizers, apply_gradients
from lctprune.optim.schedules import learning_rate
from lctprune.training.distributed.process_group import ProcessGroup
from lctprune.training.trainer import open_run, train_steps

MakeNetwork = Callable[..., lct.LocalCriticNetwork]
BASE = lct.TrainConfig(epochs=2, batch_size=16, precision="fp32", device="cpu")


def trained(make_network: MakeNetwork, data: lct.Data, path: Path, **changes: Any) -> lct.LocalCriticNetwork:
    network = make_network()
    lct.train(network, data, dataclasses.replace(BASE, **changes), run_dir=path)
    return network


def assert_same_state(left: lct.LocalCriticNetwork, right: lct.LocalCriticNetwork) -> None:
    for (name, expected), actual in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(expected, actual), name


def test_every_exit_learns(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    network = trained(make_network, data, tmp_path, epochs=12)
    assert min(score_exits(network, data.test).accuracy) > 0.8


def test_the_method_is_joint_in_one_process_and_a_run_keeps_its_own(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    def method(name: str) -> str:
        return lct.Run(tmp_path / name).config.training.method

    by_default = trained(make_network, data, tmp_path / "default", epochs=1)
    assert_same_state(by_default, trained(make_network, data, tmp_path / "joint", epochs=1, method="joint"))
    assert method("default") == "joint"
    open_run(make_network(), data, BASE, run_dir=tmp_path / "two", processes=ProcessGroup(0, 2))
    assert method("two") == "local-critic"
    lct.train(
        make_network(), data, dataclasses.replace(BASE, epochs=1), run_dir=tmp_path / "far", distance=mean_squared_error
    )
    assert method("far") == "local-critic"
    with pytest.raises(lct.ConfigError, match=r"distance .* method joint"):
        list(train_steps(by_default, data, lct.Run(tmp_path / "default"), distance=mean_squared_error))
    local = trained(make_network, data, tmp_path / "local", method="local-critic")
    config = dataclasses.replace(BASE, method="local-critic")
    begun = make_network()
    steps = train_steps(begun, data, open_run(begun, data, config, run_dir=tmp_path / "begun"))
    next(progress for progress in steps if progress.val_loss is not None)
    steps.close()
    resumed = make_network(seed=5)
    lct.train(resumed, data, BASE, run_dir=tmp_path / "begun", resume=True)  # which says nothing of the method
    assert_same_state(resumed, local)
    with pytest.raises(lct.RunError, match="method was 'local-critic', is 'joint'"):
        lct.train(resumed, data, dataclasses.replace(BASE, method="joint"), run_dir=tmp_path / "begun", resume=True)


def test_the_whole_network_without_critics_is_trained_by_backpropagation(data: lct.Data, tmp_path: Path) -> None:
    def model() -> torch.nn.Sequential:
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))

    network, reference = lct.LocalCriticNetwork([model()]), model()
    config = dataclasses.replace(BASE, epochs=1, label_smoothing=0.0, weight_decay=0.0, optimizer="sgd").resolved()
    lct.train(network, data, config, run_dir=tmp_path)
    optimizer = torch.optim.SGD(reference.parameters(), lr=1.0, momentum=0.9, nesterov=True)
    for step, (inputs, targets) in enumerate(data.train.shuffled(16, seed=0)):
        optimizer.param_groups[0]["lr"] = learning_rate(step / 6, config)
        optimizer.zero_grad()
        functional.cross_entropy(reference(inputs), targets).backward()
        optimizer.step()
    torch.testing.assert_close(network.groups[0][1].weight, reference[1].weight)
    one = lct.LocalCriticNetwork([model()])
    assert open_run(one, data, BASE, run_dir=tmp_path / "auto").config.training.method == "backprop"


def test_the_same_seed_gives_the_same_network(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    assert_same_state(trained(make_network, data, tmp_path / "a"), trained(make_network, data, tmp_path / "b"))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "joint"},
        {"epochs": 3},
        {"batch_size": 8},
        {"lr": 0.05},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"schedule": "step"},
        {"warmup": 0.6},
        {"label_smoothing": 0.3},
        {"matching": 0.5},
        {"matching": "1:0"},
        {"distill": 0.5},
        {"distill": 0},
        {"critic_period": 3},
        {"blocks": 2},
        {"critic_optimizer": "adam"},
        {"precision": "bf16"},
        {"seed": 1},
        {"optimizer": "adamw"},
        {"optimizer": "sgd"},
        {"freeze_main": True},
        {"critic_lr": 0.3},
        {"batch_norm": "keep"},
        {"batch_norm": "recalibrate"},
        {"ema": 0.9},
        {"mixup": 0.4},
        {"cutmix": 1.0},
        {"clip_grad_norm": 0.1},
        {"accumulate": 2},
    ],
    ids=str,
)
def test_every_setting_changes_what_is_learnt(
    changes: dict[str, Any], make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    local = {"method": "local-critic"}  # which has all settings
    base = trained(make_network, data, tmp_path / "base", **local).state_dict()
    changed = trained(make_network, data, tmp_path / "changed", **local | changes).state_dict()
    assert any(not torch.equal(base[name], changed[name]) for name in base)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_steps_learn_the_same(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    eager = trained(make_network, data, tmp_path / "eager", epochs=1)
    compiled = trained(make_network, data, tmp_path / "compiled", epochs=1, compile=True)
    scores = [score_exits(network, data.val).loss for network in (eager, compiled)]
    assert scores[0] == pytest.approx(scores[1], rel=0.5)  # dropout draws other masks in compiled code
    assert compiled.state_dict().keys() == eager.state_dict().keys()


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    optimizer: str, make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    whole = trained(make_network, data, tmp_path / "whole", epochs=4, critic_optimizer="adam", optimizer=optimizer)
    config = dataclasses.replace(BASE, epochs=4, critic_optimizer="adam", optimizer=optimizer)
    run = open_run(make_network(), data, config, run_dir=tmp_path / "parts")
    for progress in lct.train_steps(make_network(), data, run):
        if progress.epoch == 3 and progress.step == 2:
            break  # as if the process had been killed in the third epoch
    assert run.epochs_done == 2
    resumed = make_network(seed=99)
    lct.train(resumed, data, config, run_dir=tmp_path / "parts", resume=True)
    assert_same_state(whole, resumed)
    losses = [[row["exit0_train_loss"] for row in lct.Run(tmp_path / name).metrics] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_resuming_with_other_settings_is_refused(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    trained(make_network, data, tmp_path)
    changed = dataclasses.replace(BASE, lr=0.3)
    with pytest.raises(lct.RunError, match=r"another training \(.*\blr was 0\.02, is 0\.3"):
        lct.train(make_network(), data, changed, run_dir=tmp_path, resume=True)


def test_an_existing_run_is_not_overwritten(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    before = trained(make_network, data, tmp_path)
    with pytest.raises(lct.RunError, match="not empty"):
        trained(make_network, data, tmp_path, lr=0.01)
    saved = {f"network.{name}": tensor for name, tensor in before.state_dict().items()}
    assert lct.Run(tmp_path).read_checkpoint("")["network.groups.0.0.bias"].equal(saved["network.groups.0.0.bias"])


def test_a_run_directory_holds_settings_metrics_and_weights(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    network = trained(make_network, data, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint.safetensors", "config.json", "metrics.csv", "metrics.jsonl"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["training"] == BASE.resolved().to_dict() | {"metric": "accuracy"}
    assert {"command", "versions", "machine", "created"} <= config.keys()
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    scores = score_exits(network, data.val)
    assert float(rows[-1]["images_per_s"]) > 0
    for exit in range(3):
        assert float(rows[-1][f"exit{exit}_val_accuracy"]) == pytest.approx(scores.accuracy[exit], abs=1e-6)
        assert float(rows[-1][f"exit{exit}_val_loss"]) == pytest.approx(scores.loss[exit], rel=1e-4)
        assert math.isfinite(float(rows[-1][f"exit{exit}_train_loss"]))


def test_a_loss_that_is_not_finite_ends_training_with_the_checkpoint_whole(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    run = open_run(make_network(), data, BASE, run_dir=tmp_path)
    network = make_network()
    steps = lct.train_steps(network, data, run)
    while next(steps).val_accuracy is None:
        pass
    with torch.no_grad():
        network.critics[1][-1].weight.fill_(math.nan)
    with pytest.raises(lct.TrainingError, match=r"exit 1 is nan at epoch 2, step 1.*`lr`"):
        next(steps)
    assert run.epochs_done == 1
    assert all(tensor.isfinite().all() for tensor in run.read_checkpoint("network.").values())


def test_weights_that_explode_in_the_last_step_are_not_saved(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    run = open_run(make_network(), data, BASE, run_dir=tmp_path)
    network = make_network()
    steps = lct.train_steps(network, data, run)
    while (progress := next(steps)).epoch == 1 or progress.step < progress.steps:
        pass
    with torch.no_grad():
        network.groups[2][-1].weight.fill_(math.inf)
    with pytest.raises(lct.TrainingError, match="exit 2 is nan"):
        next(steps)
    assert run.epochs_done == 1


def test_tied_weights_are_saved(data: lct.Data, tmp_path: Path) -> None:
    layer = torch.nn.Linear(64, 64)
    network = lct.LocalCriticNetwork([torch.nn.Sequential(torch.nn.Flatten(), layer, layer, torch.nn.Linear(64, 3))])
    run = lct.train(network, data, dataclasses.replace(BASE, epochs=1), run_dir=tmp_path)
    assert torch.equal(run.read_checkpoint("network.")["groups.0.2.weight"], layer.weight)


def test_progress_is_reported_every_step_and_epoch(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    run = open_run(make_network(), data, BASE, run_dir=tmp_path)
    reports = list(lct.train_steps(make_network(), data, run))
    assert [(report.epoch, report.step) for report in reports if report.val_accuracy is None] == [
        (epoch, step) for epoch in (1, 2) for step in range(1, 7)
    ]
    assert all(report.steps == 6 and report.epochs == 2 and len(report.losses) == 3 for report in reports)
    assert [report.epoch for report in reports if report.val_accuracy is not None] == [1, 2]
    assert reports[-1].seconds_left == 0 < reports[0].seconds_left


def test_weight_decay_is_on_weights_only(make_network: MakeNetwork) -> None:
    network = make_network()
    config = lct.TrainConfig(weight_decay=0.1, optimizer="sgd").resolved()
    optimizers = Optimizers(network.groups[0], network.critics[0], config)
    assert list(optimizers.all) == ["group", "critic"]
    for optimizer in optimizers.all.values():
        for group in optimizer.param_groups:
            assert all((parameter.dim() > 1) == (group["weight_decay"] == 0.1) for parameter in group["params"])


def test_schedules() -> None:
    cosine = lct.TrainConfig(lr=0.2, warmup=0.1).resolved()
    assert learning_rate(0.05, cosine) == pytest.approx(0.1)
    assert learning_rate(0.1, cosine) == pytest.approx(0.2)
    assert learning_rate(0.55, cosine) == pytest.approx(0.1)
    assert learning_rate(1.0, cosine) == pytest.approx(0.0)
    for warmup in (0.0, 1e-5):  # and never above
        assert learning_rate(0.0, lct.TrainConfig(lr=0.2, warmup=warmup).resolved()) == pytest.approx(0.2)
    step = lct.TrainConfig(lr=0.1, schedule="step").resolved()
    assert [learning_rate(progress, step) for progress in (0, 0.49, 0.5, 0.74, 0.75, 1)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


def test_backpropagation_of_a_cut_network_is_refused(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    with pytest.raises(lct.ConfigError, match="this one has 3"):
        trained(make_network, data, tmp_path, method="backprop")


@pytest.mark.parametrize(
    ("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("muon", Muon)]
)
def test_the_schedule_sets_the_rate_of_each_optimiser(
    optimizer: str, kind: type[torch.optim.Optimizer], make_network: MakeNetwork
) -> None:
    network = make_network()

    def rates(**settings: str) -> dict[str, float]:
        """Take a step at 0.007 and return the rate of each part."""
        used = {}
        optimizers = Optimizers(network.groups[0], network.critics[0], lct.TrainConfig(**settings).resolved())
        for part, each in optimizers.all.items():
            apply_gradients(each, lr=0.007)
            used[part] = each.param_groups[0]["lr"] / each.param_groups[0].get("lr_factor", 1)
            assert isinstance(each, kind) or settings.get("critic_optimizer") == "adam"
        return used

    assert rates(optimizer=optimizer) == pytest.approx({"group": 0.007, "critic": 0.007})
    assert rates(optimizer=optimizer, critic_optimizer="adam") == pytest.approx(
        {"group": 0.007, "critic": 1e-4}  # the paper's
    )


def test_validation_uses_the_callers_loss(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    def doubled(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 2 * lct.cross_entropy(output, target)

    network = make_network()
    run = lct.train(network, data, dataclasses.replace(BASE, epochs=1), run_dir=tmp_path, loss=doubled)
    written = [float(run.metrics[-1][f"exit{exit}_val_loss"]) for exit in range(3)]
    assert written == pytest.approx([2 * value for value in score_exits(network, data.val).loss], rel=1e-4)


def test_outputs_may_have_further_dimensions(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(48, 2, 4, 4, generator=generator)
    split = lct.TensorSplit(images, (images[:, 0] > 0).long())  # a class for each pixel
    data = lct.Data(train=split, val=split, test=split, classes=("low", "high"))
    groups = [torch.nn.Sequential(torch.nn.Conv2d(2, 4, 1), torch.nn.ReLU()), torch.nn.Conv2d(4, 2, 1)]
    network = lct.LocalCriticNetwork(groups, [torch.nn.Conv2d(4, 2, 1)])
    config = dataclasses.replace(BASE, epochs=10, batch_size=8, optimizer="adamw", lr=0.03)
    lct.train(network, data, config, run_dir=tmp_path)
    with torch.no_grad():
        right = [(output.argmax(1) == split.targets).float().mean().item() for output in network.exits(images)]
    assert [candidate.accuracy for candidate in lct.evaluate(network, split, images)] == pytest.approx(right)
    assert right[-1] > 0.8


def test_volumes_are_trained(tmp_path: Path) -> None:
    split = lct.TensorSplit(torch.randn(32, 1, 4, 4, 4), torch.arange(32) % 3)
    data = lct.Data(train=split, val=split, test=split, classes=("a", "b", "c"))
    groups = [
        torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.ReLU()),
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32, 3)),
    ]
    critic = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    network = lct.LocalCriticNetwork(groups, [critic])
    assert lct.train(network, data, BASE, run_dir=tmp_path).epochs_done == 2


class Positions(torch.nn.Module):
    """Weights each step by a table that it keeps, and makes longer when a longer sequence comes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.ones(1)
        self.linear = torch.nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, steps, 3] -> [batch, 4]
        if x.shape[1] > len(self.table):
            self.table = torch.linspace(1, 0.5, x.shape[1])
        return (self.linear(x) * self.table[: x.shape[1], None]).mean(1)


def test_what_a_module_keeps_in_validation_is_fit_for_training(tmp_path: Path) -> None:
    short, long = (lct.TensorSplit(torch.randn(32, steps, 3), torch.arange(32) % 2) for steps in (4, 9))
    data = lct.Data(train=short, val=long, test=long, classes=("a", "b"))
    network = lct.LocalCriticNetwork([Positions(), torch.nn.Linear(4, 2)], [torch.nn.Linear(4, 2)])
    assert lct.train(network, data, BASE, run_dir=tmp_path / "run").epochs_done == 2
    score_exits(network, lct.TensorSplit(torch.randn(8, 12, 3), torch.arange(8) % 2))
    assert lct.train(network, data, BASE, run_dir=tmp_path / "again").epochs_done == 2
