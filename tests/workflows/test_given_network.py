"""Sessions that begin with trained weights: what is measured, said and kept before and in training."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import same
from torch import nn

import lctprune as lct
from lctprune.errors import ConfigError, DataWarning, NetworkWarning
from lctprune.measure.scores import score_networks
from lctprune.models.own_images import OwnImages, own_images
from lctprune.training.recalibration import recalibrate
from lctprune.workflows.given_network import note_on_size

Cli = Callable[..., Any]
MakeNetwork = Callable[..., lct.LocalCriticNetwork]
MODEL = ("vgg-lct", "--model-args", "width=4", "--image-size", 16, "--threads", 1, "--groups", 2)


def save(state: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def test_a_given_network_is_measured_before_any_training(
    trained: lct.Run, image_folder: Path, cli: Cli, tmp_path: Path
) -> None:
    options = (*MODEL, "--data", image_folder, "--weights", trained.path, "--epochs", 0, "--out", tmp_path / "new")
    done = cli("train", *options, "--json")
    assert done.code == 0, done.err
    given = done.document["given"]
    expected = score_networks([lct.load_network(trained)], trained.load_data().val)
    assert (given["score"], given["samples"]) == (expected.accuracy[0], expected.samples)
    assert given["loss"] == pytest.approx(expected.loss[0], rel=1e-5)
    assert given == json.loads((tmp_path / "new" / "config.json").read_text())["given"]
    assert f"accuracy {expected.accuracy[0]:.1%}" in done.err
    assert "validation split is cut" not in done.err  # the run had the same split
    other = cli("train", "vgg-lct", *MODEL[3:], "--model-args", "width=8", *options[len(MODEL) : -1], tmp_path / "b")
    assert (other.code, other.err.strip().endswith(f"; {trained.path} was trained with --model-args width=4")) == (
        1,
        True,
    )
    refused = cli("train", *MODEL, "--data", image_folder, "--epochs", 0, "--out", tmp_path / "none")
    assert refused.code == 2
    assert "epochs is 0" in refused.err
    assert not (tmp_path / "none").exists()


def test_a_file_of_weights_may_have_seen_the_split_and_may_guess(
    trained: lct.Run, image_folder: Path, cli: Cli, tmp_path: Path
) -> None:
    state = dict(lct.load_network(trained).main_state_dict())
    state["head.1.weight"], state["head.1.bias"] = torch.zeros(3, 128), torch.tensor([1.0, 0.0, 0.0])
    weights = save(state, tmp_path / "w.pt")
    options = (*MODEL, "--weights", weights, "--epochs", 0, "--mean", "0.5", "--std", "0.25,0.2,0.3")
    done = cli("train", *options, "--data", image_folder, "--out", tmp_path / "a")
    assert done.code == 0, done.err
    text = " ".join(done.err.split())
    assert "validation split is cut from the training samples" in text
    assert "val/" in text
    assert "no better than chance" in text
    assert "now mean 0.5,0.5,0.5, std 0.25,0.2,0.3" in text
    record = lct.Run(tmp_path / "a").config.data
    assert record is not None
    assert (record.mean, record.std) == ((0.5,) * 3, (0.25, 0.2, 0.3))
    split = shutil.copytree(image_folder, tmp_path / "split")
    shutil.copytree(split / "test", split / "val")
    done = cli("train", *options, "--data", split, "--out", tmp_path / "b")
    assert done.code == 0, done.err
    assert "validation split is cut" not in done.err


@pytest.mark.parametrize("data", ["digits-rows", "digits"])
def test_mean_and_std_fit_the_images(data: str) -> None:
    with pytest.raises(
        ConfigError, match="leave them out" if data == "digits-rows" else "mean has 3 numbers.* 1 chann"
    ):
        lct.load_data(lct.DataConfig(name=data, mean=(0.5,) * 3, std=(0.5,) * 3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": (0.5,)}, "without std"),
        ({"std": (0.5,)}, "without mean"),
        ({"mean": (123.7,), "std": (0.2,)}, "mean is 123.7.* divide by 255"),
        ({"mean": (0.5,), "std": (0.0,)}, "std is 0;"),
        ({"mean": (math.nan,), "std": (0.2,)}, "mean is nan"),
    ],
    ids=str,
)
def test_what_cannot_be_a_normalisation_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lct.DataConfig(**values)


def test_a_new_classifier_learns_while_the_body_stays(
    trained: lct.Run, image_folder: Path, cli: Cli, tmp_path: Path
) -> None:
    state = dict(lct.load_network(trained).main_state_dict())
    state["head.1.weight"], state["head.1.bias"] = torch.randn(5, 128), torch.randn(5)
    state |= {name: each + 1 for name, each in state.items() if name.startswith("stage4") and name.endswith("bias")}
    weights = save(state, tmp_path / "w.pt")
    options = (*MODEL, "--data", image_folder, "--weights", weights, "--freeze-main", "--batch-size", 9, "--lr", 0.002)
    done = cli("train", *options, "--epochs", 2, "--out", tmp_path / "new")
    assert done.code == 0, done.err
    run = lct.Run(tmp_path / "new")
    assert run.config.given is not None
    assert run.config.given.loss == pytest.approx(math.log(3), abs=1e-5)
    assert run.config.training.new_parameters == ("head.1.weight", "head.1.bias")
    main = lct.load_network(run).main_state_dict()
    body = {name: each for name, each in state.items() if not name.startswith("head")}
    assert same(body, {name: main[name] for name in body})
    assert main["head.1.weight"].shape == (3, 128)
    assert main["head.1.weight"].any()
    again = cli("train", *options, "--epochs", 2, "--out", tmp_path / "new", "--resume")
    assert again.code == 0, again.err


def test_zeros_in_front_of_a_relu_would_never_learn(tmp_path: Path) -> None:
    recipe = lct.NetworkConfig(model="squeezenet1_1", groups=1, image_size=32, num_outputs=3)
    model = lct.build_network(lct.NetworkConfig(**{**vars(recipe), "num_outputs": 4}))
    with pytest.warns(NetworkWarning, match=r"classifier\.1 is new"):
        network = lct.build_network(recipe, weights=str(save(model.main_state_dict(), tmp_path / "w.pt")))
    output = network.eval()(torch.rand(2, 3, 32, 32))
    assert output.softmax(1).tolist() == [[pytest.approx(1 / 3)] * 3] * 2
    nn.functional.cross_entropy(output, torch.tensor([0, 0])).backward()
    weight = network.groups[0].get_parameter("classifier.1.weight")
    assert weight.grad is not None
    assert weight.grad.any()


def test_recalibrated_statistics_are_those_of_the_training_split(make_network: MakeNetwork, data: lct.Data) -> None:
    network = make_network()
    inputs, _ = next(data.train.batches(96))
    recalibrate(network, data.train, lct.TrainConfig(batch_size=96, precision="fp32", device="cpu").resolved())
    group = network.groups[0]
    at = next(index for index, each in enumerate(group) if isinstance(each, nn.BatchNorm2d))
    torch.testing.assert_close(group[at].running_mean, group[:at].eval()(inputs).mean((0, 2, 3)))
    assert group[at].momentum == 0.1


def test_images_of_weights(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    name, half = "timm/tf_efficientnet_lite0", ((0.5,) * 3, (0.5,) * 3)
    assert own_images(name, str(tmp_path / "w.safetensors")) == (224, half)
    config = {
        "architecture": "tf_efficientnet_lite0",
        "pretrained_cfg": {"mean": [0.1], "std": [0.2], "input_size": [3, 64, 64]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert own_images(name, str(tmp_path / "w.safetensors")) == (64, ((0.1,), (0.2,)))
    assert own_images("timm/mobilenetv3_small_100", str(tmp_path)) == own_images("timm/mobilenetv3_small_100")


def test_images_are_not_enlarged_unasked(trained: lct.Run) -> None:
    data = trained.load_data()
    with pytest.warns(DataWarning, match="keep their 16 pixels.* trained on 24; `image_size=24`"):
        note_on_size("net", data, OwnImages(24), lct.DataConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        note_on_size("net", data, OwnImages(16), lct.DataConfig())


@pytest.mark.parametrize("normalization", [nn.Identity, nn.LayerNorm])
def test_a_run_whose_tails_of_small_maps_did_not_normalise_or_otherwise(
    normalization: Callable[[int], nn.Module], data: lct.Data, tmp_path: Path
) -> None:
    recipe = lct.NetworkConfig(
        model="vgg-lct", model_args={"width": 8}, groups=4, in_channels=1, image_size=8, num_outputs=3, critic="tail"
    )
    network = lct.build_network(recipe)
    assert [len(critic) for critic in network.critics[1:]] == [4, 4]  # batch normalisation, pooling, flattening, linear
    for index, channels in ((1, 16), (2, 32)):
        between = [each for each in [normalization(channels)] if isinstance(each, nn.LayerNorm)]
        layers = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *between, nn.Linear(channels, 3)]
        network.critics[index] = nn.Sequential(*layers)
    run = lct.train(network, data, lct.TrainConfig(epochs=1, batch_size=48, precision="fp32"), run_dir=tmp_path / "run")
    assert same(lct.load_network(run).state_dict(), network.state_dict())
