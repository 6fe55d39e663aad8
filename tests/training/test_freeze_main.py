"""Training critics alone: the main network stays as it is, to the last bit, and costs no graph."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from equality import same
from torch import Tensor, nn

import lctprune as lct
from lctprune.training.trainer import open_run

Cli = Callable[..., Any]
MakeNetwork = Callable[..., lct.LocalCriticNetwork]
FROZEN = lct.TrainConfig(epochs=2, batch_size=16, precision="fp32", device="cpu", freeze_main=True)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def main_of(run: Path) -> dict[str, Tensor]:
    return lct.load_network(run).main_state_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw"},
        {"optimizer": "sgd"},
        {"critic_optimizer": "adam"},
        {"weight_decay": 0.5},
        {"precision": "bf16"},
        {"matching": 1},
    ],
    ids=str,
)
def test_the_main_network_stays_as_it_is(
    changes: dict[str, Any], make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    network = make_network()
    network.exits(next(data.train.batches(96))[0])  # statistics of batch norm that are not those of a new network
    groups, critics = state_of(network.groups), [state_of(critic) for critic in network.critics]
    run = lct.train(network, data, dataclasses.replace(FROZEN, **changes), run_dir=tmp_path)
    assert any("running_mean" in name for name in groups)
    assert same(groups, state_of(network.groups))
    assert same(groups, run.read_checkpoint("network.groups."))
    for before, critic in zip(critics, network.critics, strict=True):
        assert not same(before, state_of(critic))
    assert not network.training


def test_critics_learn_while_the_main_network_stays(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    network = make_network()
    lct.train(network, data, dataclasses.replace(FROZEN, epochs=10, freeze_main=False), run_dir=tmp_path / "a")
    for critic in network.critics:
        critic[-1].reset_parameters()
    before = lct.evaluate(network, data.val, data.example, latency_repeats=0)
    lct.train(network, data, dataclasses.replace(FROZEN, epochs=10), run_dir=tmp_path / "b")
    after = lct.evaluate(network, data.val, data.example, latency_repeats=0)
    assert (after[-1].accuracy, after[-1].loss) == (before[-1].accuracy, before[-1].loss)
    for exit in (0, 1):
        assert after[exit].loss < before[exit].loss
        assert after[exit].accuracy > 0.8


def test_what_needed_gradients_does_so_again(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    network = make_network()
    network.groups[0][0].bias.requires_grad_(False)
    needed = [parameter.requires_grad for parameter in network.parameters()]
    lct.train(network, data, FROZEN, run_dir=tmp_path / "a")
    assert [parameter.requires_grad for parameter in network.parameters()] == needed
    steps = lct.train_steps(network, data, open_run(network, data, FROZEN, run_dir=tmp_path / "b"))
    next(steps)
    assert not any(parameter.requires_grad for parameter in network.groups.parameters())
    assert all(parameter.grad is None for parameter in network.groups.parameters())
    steps.close()  # as when training is interrupted
    assert [parameter.requires_grad for parameter in network.parameters()] == needed


def test_groups_run_without_graph_and_without_dropout(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    network = make_network()
    run = open_run(network, data, FROZEN, run_dir=tmp_path)
    seen: list[tuple[bool, bool]] = []
    for group in network.groups:
        group.register_forward_hook(lambda group, _, output: seen.append((group.training, output.requires_grad)))
    critics_seen: list[tuple[bool, bool]] = []
    for critic in network.critics:
        critic.register_forward_hook(
            lambda critic, _, output: critics_seen.append((critic.training, output.requires_grad))
        )
    next(lct.train_steps(network, data, run))
    assert seen == [(False, False)] * 3
    assert critics_seen == [(True, True)] * 2


def test_less_is_kept_for_the_backward_pass(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    def kept(config: lct.TrainConfig) -> int:
        network = make_network()
        run = open_run(network, data, config, run_dir=tmp_path / str(config.freeze_main))
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            next(lct.train_steps(network, data, run))
        return total

    assert 0 < kept(FROZEN) < 0.75 * kept(dataclasses.replace(FROZEN, freeze_main=False))


def test_a_resumed_run_equals_an_uninterrupted_one(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    config = dataclasses.replace(FROZEN, epochs=3)
    whole = make_network()
    lct.train(whole, data, config, run_dir=tmp_path / "whole")
    run = open_run(make_network(), data, config, run_dir=tmp_path / "parts")
    for progress in lct.train_steps(make_network(), data, run):
        if progress.epoch == 2 and progress.step == 3:
            break
    resumed = make_network(seed=99)
    lct.train(resumed, data, config, run_dir=tmp_path / "parts", resume=True)
    assert same(state_of(whole), state_of(resumed))
    with pytest.raises(lct.RunError, match="freeze_main"):
        lct.train(
            resumed, data, dataclasses.replace(config, freeze_main=False), run_dir=tmp_path / "parts", resume=True
        )


def test_without_critics_there_is_nothing_to_train(data: lct.Data, cli: Cli, tmp_path: Path) -> None:
    network = lct.LocalCriticNetwork([nn.Sequential(nn.Flatten(), nn.Linear(64, 3))])
    with pytest.raises(lct.ConfigError, match="2 groups or more"):
        lct.train(network, data, FROZEN, run_dir=tmp_path / "run")
    for options in (("--groups", 1), ("--method", "backprop")):
        result = cli("train", "mlp", "--data", table(tmp_path), "--freeze-main", *options, "--out", tmp_path / "run")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert "give it --weights" in result.err
    assert not (tmp_path / "run").exists()


# --- from the command line, from weights -----------------------------------------------------------------------------

QUICK = ("--epochs", 2, "--batch-size", 20, "--critic", "pooled", "--threads", 1)


def table(folder: Path) -> Path:
    path = folder / "t.csv"
    path.write_text("a,b,y\n" + "\n".join(f"{i},{-i},{i % 2}" for i in range(40)))
    return path


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file with the state dict of a model that somebody trained."""
    model = lct.build_network(lct.NetworkConfig(model="vgg-lct", groups=1, num_outputs=3, image_size=8))
    model.train()
    model(torch.randn(20, 3, 8, 8) * 2 + 1)
    state = model.main_state_dict()
    safetensors.torch.save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors", state


def test_from_a_file_of_weights(
    weights: tuple[Path, dict[str, Tensor]], cli: Cli, image_folder: Path, tmp_path: Path
) -> None:
    path, state = weights
    options = ("--data", image_folder, "--groups", 3, "--weights", path, *QUICK)
    for name, more in (("frozen", ("--freeze-main",)), ("joint", ())):
        result = cli("train", "vgg-lct", "--out", tmp_path / name, *options, *more)
        assert result.code == 0, result.err
        assert lct.Run(tmp_path / name).config["training"]["freeze_main"] is (name == "frozen")
    assert same(main_of(tmp_path / "frozen"), state)
    assert not same(main_of(tmp_path / "joint"), state)
    again = cli("train", "vgg-lct", "--out", tmp_path / "frozen", *options, "--freeze-main", "--resume")
    assert again.code == 0, again.err
    main_rows = [row["exit2_val_loss"] for row in lct.Run(tmp_path / "frozen").metrics]
    assert main_rows[0] == main_rows[1]
    assert cli("select", tmp_path / "frozen").code == 0


def test_from_the_directory_of_a_run(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    plain = cli("train", "vgg-lct", "--data", image_folder, "--out", tmp_path / "plain", "--method", "backprop", *QUICK)
    assert plain.code == 0, plain.err
    options = ("--data", image_folder, "--groups", 2, "--weights", tmp_path / "plain", "--freeze-main", *QUICK)
    result = cli("train", "vgg-lct", "--out", tmp_path / "frozen", "--json", *options)
    assert same(main_of(tmp_path / "frozen"), main_of(tmp_path / "plain"))
    main = cli("evaluate", tmp_path / "plain", "--json").document["candidates"][-1]
    assert result.document["candidates"][-1]["accuracy"] == main["accuracy"]
    refused = cli("train", "vgg-lct", "--out", tmp_path / "x", "--data", image_folder, "--weights", tmp_path / "nosuch")
    assert (refused.code, refused.err.count("\n")) == (1, 1)


def test_without_weights_there_is_nothing_to_keep(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    result = cli("train", "resnet", "--data", image_folder, "--freeze-main", "--out", tmp_path / "run")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "give it --weights" in result.err
    assert not (tmp_path / "run").exists()


def test_a_run_is_resumed_with_its_weights_or_from_its_checkpoint_alone(cli: Cli, tmp_path: Path) -> None:
    settings = ("--data", table(tmp_path), "--task", "regression", "--model-args", "width=8,layers=2", "--groups", 2)
    for name in ("first", "second"):
        assert cli("train", "mlp", *settings, "--epochs", 1, "--out", tmp_path / name).code == 0
    run = ("train", "mlp", *settings, "--freeze-main", "--out", tmp_path / "run")
    assert cli(*run, "--epochs", 1, "--weights", tmp_path / "first").code == 0
    result = cli(*run, "--epochs", 1, "--weights", tmp_path / "second", "--resume")
    assert result.code != 0
    assert "was begun with another network (weights was" in result.err
    assert cli(*run, "--epochs", 1, "--weights", tmp_path / "first", "--resume").code == 0

    config = tmp_path / "run" / "config.json"
    recorded = json.loads(config.read_text())
    recorded["training"]["epochs"] = 2  # as if it had been interrupted after the first
    config.write_text(json.dumps(recorded))
    main = lct.load_network(tmp_path / "first").main_state_dict()
    shutil.rmtree(tmp_path / "first")
    result = cli(*run, "--epochs", 2, "--resume")
    assert result.code == 0, result.err
    assert lct.Run(tmp_path / "run").epochs_done == 2
    torch.testing.assert_close(lct.load_network(tmp_path / "run").main_state_dict(), main, rtol=0, atol=0)


def test_a_runs_weights_come_with_its_normalisation(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    small = ("--image-size", 8, "--epochs", 1, "--groups", 2)
    assert cli("train", "resnet", "--data", image_folder, *small, "--out", tmp_path / "first").code == 0
    path = tmp_path / "first" / "config.json"
    config = json.loads(path.read_text())
    config["data"]["mean"] = [0.1, 0.2, 0.3]  # as if it had been trained on other images
    path.write_text(json.dumps(config))
    arguments = ("--weights", tmp_path / "first", "--freeze-main", "--out", tmp_path / "second")
    assert cli("train", "resnet", "--data", image_folder, *small, *arguments).code == 0
    assert lct.Run(tmp_path / "second").config["data"]["mean"] == [0.1, 0.2, 0.3]


def hot_or_cold(path: Path, mean: float, columns: str = "degrees,noise,kind") -> Path:
    draw = random.Random(0)
    rows = [(draw.gauss(mean, 4), draw.gauss(0, 1)) for _ in range(240)]
    by_name = [{"degrees": a, "noise": b, "kind": "hot" if a > 55 else "cold"} for a, b in rows]
    lines = [",".join(str(row[name]) for name in columns.split(",")) for row in by_name]
    path.write_text("\n".join([columns, *lines]) + "\n")
    return path


def test_a_tables_columns_are_standardised_as_the_weights_know_them(cli: Cli, tmp_path: Path) -> None:
    small = ("--groups", 2, "--model-args", "width=16", "--batch-size", 16, "--threads", 1)
    first = ("train", "mlp", *small, "--data", hot_or_cold(tmp_path / "a.csv", 55), "--epochs", 8)
    assert cli(*first, "--out", tmp_path / "first").code == 0
    given = ("train", "mlp", *small, "--epochs", 1, "--weights", tmp_path / "first", "--freeze-main")
    warmer = hot_or_cold(tmp_path / "b.csv", 60)
    assert cli(*given, "--data", warmer, "--out", tmp_path / "second").code == 0
    runs = [lct.Run(tmp_path / name) for name in ("first", "second")]
    assert runs[0].config["data"]["mean"] == runs[1].config["data"]["mean"]
    data = runs[1].load_data()
    assert lct.evaluate(lct.load_network(runs[1]), data.val, data.example)[-1].accuracy > 0.8
    swapped = hot_or_cold(tmp_path / "c.csv", 55, "noise,degrees,kind")
    result = cli(*given, "--data", swapped, "--out", tmp_path / "third")
    assert (result.code, (tmp_path / "third").exists()) == (2, False)
    assert "first was trained with other columns than" in result.err


def test_other_classes_of_the_same_number(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    small = ("--image-size", 8, "--epochs", 1, "--groups", 2, "--threads", 1)
    assert cli("train", "resnet", "--data", image_folder, *small, "--out", tmp_path / "first").code == 0
    other = tmp_path / "other"
    for split in ("train", "test"):
        for name, new in (("blue", "sea"), ("green", "wood"), ("red", "fire")):
            shutil.copytree(image_folder / split / name, other / split / new)
    given = ("train", "resnet", "--data", other, *small, "--weights", tmp_path / "first", "--out", tmp_path / "second")
    result = cli(*given, "--freeze-main")
    assert (result.code, (tmp_path / "second").exists()) == (2, False)
    assert "first was trained on other classes (blue, green, red, not fire, sea, wood)" in result.err
    result = cli(*given)
    assert result.code == 0
    assert "first was trained on other classes: blue, green, red, not fire, sea, wood" in result.err


def test_a_spectral_norm_stands_still(data: lct.Data, tmp_path: Path) -> None:
    normed = nn.utils.parametrizations.spectral_norm
    groups = [
        nn.Sequential(normed(nn.Conv2d(1, 8, 3)), nn.ReLU(), nn.Conv2d(8, 8, 3)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    ]
    critic = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    network = lct.LocalCriticNetwork(groups, [critic])
    before = state_of(network.groups)
    lct.train(network, data, FROZEN, run_dir=tmp_path)
    assert same(state_of(network.groups), before)
