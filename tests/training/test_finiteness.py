"""What is not finite is traced to the data, the weights or the learning rate."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lctprune as lct
from lctprune.data.splits import Batch

CONFIG = lct.TrainConfig(epochs=2, batch_size=8, precision="fp32", optimizer="sgd", lr=0.01)


class Streamed(lct.Split):
    """Holds its samples where no check before training looks."""

    def __init__(self, split: lct.TensorSplit) -> None:
        self.split = split

    @property
    def targets(self) -> Tensor:
        return self.split.targets

    def batches(self, batch_size: int) -> Iterator[Batch]:
        return self.split.batches(batch_size)

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        return self.split.shuffled(batch_size, seed=seed)


def network(outputs: int = 3) -> lct.LocalCriticNetwork:
    torch.manual_seed(0)
    groups = [nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.LeakyReLU()), nn.Linear(6, outputs)]
    return lct.LocalCriticNetwork(groups, [nn.Linear(6, outputs)])


def data(inputs: Tensor, targets: Tensor, *, streamed: bool = False, **fields: Any) -> lct.Data:
    wrap = Streamed if streamed else lambda split: split
    train, val = (wrap(lct.TensorSplit(inputs[part], targets[part])) for part in (slice(24), slice(24, 40)))
    classes = () if targets.is_floating_point() else ("a", "b", "c")
    return lct.Data(train=train, val=val, test=val, classes=classes, **fields)


def message(network: lct.LocalCriticNetwork, data: lct.Data, path: Path, **options: Any) -> str:
    with pytest.raises(lct.LctpruneError) as caught:
        lct.train(network, data, options.pop("config", CONFIG), run_dir=path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def samples() -> tuple[Tensor, Tensor]:
    return torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("row", "split", "place"), [(5, "training", 5), (34, "validation", 10)])
def test_inputs_in_memory_are_looked_at_before_training(
    value: float, row: int, split: str, place: int, tmp_path: Path
) -> None:
    inputs, targets = samples()
    inputs[row, 2] = value
    text = message(network(), data(inputs, targets, columns=("a", "b", "c", "d")), tmp_path / "run")
    assert f"inputs of the {split} split hold {value}, in c, in 1 of" in text
    assert f"the first is sample {place}," in text
    assert "lr" not in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("row", "split"), [(5, "batch"), (34, "validation split")])
def test_inputs_that_come_with_their_batch_are_named(value: float, row: int, split: str, tmp_path: Path) -> None:
    inputs, targets = samples()
    inputs[row, 2] = value
    text = message(network(), data(inputs, targets, streamed=True), tmp_path / "run")
    assert "epoch 1" in text
    assert ("the inputs of this batch hold" if split == "batch" else "the inputs of the validation split hold") in text
    assert f"hold {value}" in text
    assert "lr" not in text


def test_a_network_that_deals_with_missing_values_is_trained(tmp_path: Path) -> None:
    class Filled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.nan_to_num()

    inputs, targets = samples()
    inputs[5, 2] = math.nan
    filling = network()
    filling.groups[0].insert(0, Filled())
    assert lct.train(filling, data(inputs, targets), CONFIG, run_dir=tmp_path / "run").epochs_done == 2


@pytest.mark.parametrize("row", [5, 34])
def test_targets_are_named(row: int, tmp_path: Path) -> None:
    inputs, targets = samples()[0], torch.randn(40, 1)
    targets[row] = math.nan
    text = message(network(1), data(inputs, targets), tmp_path / "run")
    assert f"targets of the {'training' if row == 5 else 'validation'} split hold nan, in 1 of" in text

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean(1)

    text = message(network(1), data(inputs, targets), tmp_path / "own", loss=loss, distance=lct.mean_squared_error)
    assert f"the targets of {'this batch' if row == 5 else 'the validation split'} hold nan" in text
    assert "lr" not in text


def test_a_loss_of_ones_own_may_leave_out_targets_that_are_nan(tmp_path: Path) -> None:
    inputs, targets = samples()[0], torch.randn(40, 2)
    targets[5, 0] = targets[30, 1] = math.nan

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().nan_to_num().mean(1)

    run = lct.train(
        network(2), data(inputs, targets), CONFIG, run_dir=tmp_path / "run", loss=loss, distance=lct.mean_squared_error
    )
    assert run.config.training.metric == "loss"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (lambda n: n.groups[0][0].weight.data, "0.weight of group 0"),
        (lambda n: n.groups[0][1].running_var, "1.running_var of group 0"),
        (lambda n: n.critics[0].bias.data, "bias of critic 0"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_are_looked_at_before_training(place: Any, name: str, value: float, tmp_path: Path) -> None:
    broken = network()
    place(broken).view(-1)[0] = value
    text = message(broken, data(*samples()), tmp_path / "run")
    assert f"weights hold {value} before training: {name} does, in 1 of" in text
    assert "lr" not in text


def test_a_mask_may_be_infinite(tmp_path: Path) -> None:
    masked = network()
    masked.groups[0].register_buffer("mask", torch.tensor([0.0, -math.inf]))
    assert lct.train(masked, data(*samples()), CONFIG, run_dir=tmp_path / "run").epochs_done == 2


def test_the_file_of_weights_is_named(image_folder: Path, tmp_path: Path, cli: Any) -> None:
    import safetensors.torch

    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 2}, groups=2, num_outputs=3, image_size=16)
    state = lct.build_network(recipe).main_state_dict()
    name = next(iter(state))
    state[name] = torch.full_like(state[name], math.nan)
    safetensors.torch.save_file(state, tmp_path / "diverged.safetensors")
    options = ("--model-args", "width=2", "--groups", 2, "--image-size", 16, "--out", tmp_path / "run")
    result = cli("train", "vgg-lct", "--data", image_folder, "--weights", tmp_path / "diverged.safetensors", *options)
    assert result.code in (1, 2)
    assert f"diverged.safetensors has NaN or infinite numbers in {name}" in result.err
    assert name in result.err
    assert "--lr" not in result.err


def test_a_rate_that_is_too_large_is_named(tmp_path: Path) -> None:
    config = lct.TrainConfig(epochs=4, batch_size=8, precision="fp32", optimizer="sgd", lr=1e30, warmup=0)
    text = message(network(), data(*samples()), tmp_path / "run", config=config)
    assert "the data is finite" in text
    assert "try a smaller `lr`" in text


def test_a_loss_that_is_not_finite_by_itself_is_not_blamed_on_the_rate(tmp_path: Path) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output.softmax(1)[:, 0] * 0).log()

    text = message(network(), data(*samples()), tmp_path / "run", loss=loss)
    assert "epoch 1, step 1" in text
    assert "the network or the loss itself" in text
    assert "--lr" not in text


@pytest.mark.parametrize("scale", ["e-200", "e90", "e-308"])
def test_a_table_column_of_extreme_numbers_is_standardised(scale: str, tmp_path: Path) -> None:
    draw = random.Random(0)
    values = [draw.random() + 1 for _ in range(60)]
    path = tmp_path / "t.csv"
    path.write_text("a,b,y\n" + "".join(f"{a}{scale},{a},{i % 2}\n" for i, a in enumerate(values)))
    train = lct.load_data(lct.DataConfig(name=str(path))).train
    torch.testing.assert_close(train.inputs[:, 0], train.inputs[:, 1], rtol=1e-4, atol=1e-4)
