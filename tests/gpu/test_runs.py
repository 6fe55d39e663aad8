"""Whole trainings on CUDA: precision, resuming, what is made of a run, several processes, compiled code."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import nn

import lctprune as lct
from lctprune.measure.scores import score_exits
from lctprune.training.trainer import open_run

pytestmark = pytest.mark.gpu

MakeNetwork = Callable[..., lct.LocalCriticNetwork]
BASE = lct.TrainConfig(epochs=3, batch_size=16, precision="fp32")
PRECISIONS = [each for each in get_args(get_type_hints(lct.TrainConfig)["precision"]) if each != "auto"]


def test_the_device_is_found(device: str) -> None:
    assert lct.TrainConfig().resolved().device == device


@pytest.mark.parametrize(("precision", "method"), [("fp32", "joint"), *((each, "local-critic") for each in PRECISIONS)])
def test_every_precision_learns(
    precision: str, method: str, make_network: MakeNetwork, data: lct.Data, device: str, tmp_path: Path
) -> None:
    network = make_network()
    config = dataclasses.replace(BASE, epochs=12, precision=precision, method=method, device=device)
    run = lct.train(network, data, config, run_dir=tmp_path / "run")
    assert next(network.parameters()).device.type == device
    assert min(score_exits(network, data.test).accuracy) > 0.8
    assert all(math.isfinite(float(value)) for row in run.metrics for value in row.values())


@pytest.mark.filterwarnings("default")  # of operations that are not deterministic
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    ("precision", "optimizer"), [("fp32", "sgd"), ("fp32", "adamw"), *((each, "muon") for each in PRECISIONS)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    precision: str, optimizer: str, make_network: MakeNetwork, data: lct.Data, device: str, tmp_path: Path
) -> None:
    config = dataclasses.replace(BASE, optimizer=optimizer, device=device, precision=precision)
    whole, resumed = make_network(), make_network(seed=99)
    lct.train(whole, data, config, run_dir=tmp_path / "whole")
    run = open_run(make_network(), data, config, run_dir=tmp_path / "parts")
    for progress in lct.train_steps(make_network(), data, run):
        if progress.epoch == 2 and progress.step == 2:
            break  # as if the process had been killed in the second epoch
    lct.train(resumed, data, config, run_dir=tmp_path / "parts", resume=True)
    different = [
        name for name, value in whole.state_dict().items() if not torch.equal(value, resumed.state_dict()[name])
    ]
    assert not different


def test_a_loss_that_is_not_finite_ends_training(
    make_network: MakeNetwork, data: lct.Data, device: str, tmp_path: Path
) -> None:
    network = make_network()
    run = open_run(network, data, dataclasses.replace(BASE, device=device), run_dir=tmp_path / "run")
    steps = lct.train_steps(network, data, run)
    while next(steps).val_accuracy is None:
        pass
    with torch.no_grad():
        network.critics[1][-1].weight.fill_(math.nan)
    with pytest.raises(lct.TrainingError, match=r"exit 1 is nan at epoch 2, step 1"):
        list(steps)
    assert run.epochs_done == 1


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_an_exit_is_measured_chosen_and_exported(
    make_network: MakeNetwork, data: lct.Data, device: str, tmp_path: Path
) -> None:
    network = make_network()
    lct.train(network, data, dataclasses.replace(BASE, device=device), run_dir=tmp_path / "run")
    candidates = lct.evaluate(network, data.val, data.example, latency_repeats=5)
    assert all(each.latency_ms and each.latency_ms > 0 for each in candidates)
    assert candidates[0].flops is not None
    best = lct.select(candidates, lct.Budget(flops=candidates[0].flops))
    assert best.exit == 0
    inputs, _ = next(data.test.batches(8))
    path = lct.export(network.subnetwork(best.exit), inputs, tmp_path / "model.pt")
    loaded = torch.jit.load(path, map_location="cpu")
    expected = network.cpu().subnetwork(best.exit).eval()(inputs)
    torch.testing.assert_close(loaded(inputs), expected, rtol=1e-2, atol=1e-2)  # convolutions on CUDA use TF32


@pytest.mark.filterwarnings("ignore")  # of the converters
@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_files_are_written_of_a_network_that_was_left_on_the_card(format: Any, device: str, tmp_path: Path) -> None:
    """Its convolutions round to TF32, those of most files do not."""
    torch.manual_seed(0)
    recipe = lct.NetworkConfig(model="resnet18", model_args={"width": 16}, image_size=32, groups=2)
    network = lct.build_network(recipe).to(device).eval()
    path = lct.export(network.subnetwork(1), torch.randn(4, 3, 32, 32), tmp_path / "model", format=format)
    assert path.stat().st_size > 0


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_the_commands_run_from_training_to_a_file(
    cli: Callable[..., Any], image_folder: Path, device: str, tmp_path: Path
) -> None:
    options = "--image-size 16 --model-args width=4 --groups 3 --epochs 2 --batch-size 18".split()
    run = tmp_path / "run"
    trained = cli("train", "vgg-lct", "--data", image_folder, "--out", run, "--device", device, *options, "--json")
    assert len(trained.document["candidates"]) == 3
    assert lct.Run(run).config.training.device == device
    chosen = cli("select", run, "--budget-flops", "90%", "--json")
    assert chosen.code == 0, chosen.err
    assert torch.jit.load(run / "selected" / "model.pt")(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_what_is_added_to_a_run_is_trained_and_measured(
    cli: Callable[..., Any], image_folder: Path, device: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch_pruning")
    options = "--image-size 16 --val-fraction 0.4 --model-args width=4 --batch-size 18".split()
    data = ["--data", image_folder, "--device", device, *options]
    given, run, smaller = (tmp_path / name for name in ("given", "run", "smaller"))
    trainings = [
        ["train", "vgg-lct", *data, "--method", "backprop", "--epochs", 3, "--out", given],
        ["train", "vgg-lct", *data, "--weights", given, "--freeze-main", "--groups", 3, "--epochs", 1, "--out", run],
        ["densify", run],
        ["narrow", run, "--budget-flops", "60%"],
        ["finetune", run, "--exit", 0],
        ["ensemble", run],
        ["progressive", run, "--max-drop", 5],
        ["compress", "vgg-lct", *data, "--weights", given, "--budget-flops", "50%", "--epochs", 3, "--out", smaller],
    ]
    for command in trainings:
        done = cli(*command, "--json")
        assert done.code == 0, f"{command[0]}: {done.err}"
    measured = cli("evaluate", run, "--json").document["candidates"]
    origins = " ".join(str(each["origin"]) for each in measured)
    assert all(word in origins for word in ("narrowed", "fine-tuned")), origins
    assert torch.jit.load(smaller / "selected" / "model.pt")(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize("processes", [2])
def test_several_processes_share_one_card(
    processes: int, image_folder: Path, device: str, tmp_path: Path, make_network: MakeNetwork
) -> None:
    options = "--image-size 16 --model-args width=4 --groups 3 --epochs 2 --batch-size 18 --precision fp32".split()
    options += ["--method", "local-critic"]  # the default in several processes only
    states = {}
    for count in (1, processes):
        run = tmp_path / f"run{count}"
        command = ["-m", "lctprune", "train", "vgg-lct", "--data", image_folder, "--out", run, "--device", device]
        done = subprocess.run(
            [sys.executable, *map(str, command), *options, "--processes", str(count), "--threads", "1"],
            env=os.environ | {"PYTHONWARNINGS": "default"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        states[count] = lct.Run(run).read_checkpoint("network.")
    for name, expected in states[1].items():
        torch.testing.assert_close(states[processes][name], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("default")
def test_compiled_steps_learn_the_same(make_network: MakeNetwork, data: lct.Data, device: str, tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        whole = make_network()
        network = lct.LocalCriticNetwork([whole.groups[0], nn.Sequential(*whole.groups[1:])], [whole.critics[0]])
        config = dataclasses.replace(BASE, epochs=1, compile=compiled, device=device)
        lct.train(network, data, config, run_dir=tmp_path / str(compiled))
        losses.append(score_exits(network, data.val).loss)
    assert losses[0] == pytest.approx(losses[1], rel=0.5)  # dropout draws other masks in compiled code
