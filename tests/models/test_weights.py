"""Weights from files: read without trust, loaded whole or not at all."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision import models

import lctprune as lct
from lctprune.config.network import NetworkConfig
from lctprune.errors import ConfigError, NetworkError, NetworkWarning
from lctprune.models.build import build_model, build_network
from lctprune.models.weight_names import fit_names
from lctprune.models.weights import load_weights, read_weights


def network(num_outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, num_outputs))


def assert_same(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], tensor) for name, tensor in expected.items())


# --- reading ---------------------------------------------------------------------------------------------------------


def test_the_main_network_of_a_run_is_read(tmp_path: Path, make_network: Callable[..., lct.LocalCriticNetwork]) -> None:
    trained = lct.attach_critics(network(), torch.zeros(1, 3, 8, 8), num_outputs=3, groups=2)
    state = {f"network.{name}": tensor for name, tensor in trained.state_dict().items()}
    state["ema.groups.0.0.weight"] = torch.zeros(3)
    safetensors.torch.save_file(state, tmp_path / "checkpoint.safetensors")
    weights = read_weights(tmp_path)
    assert_same(weights[""], trained.main_state_dict())
    again = network()
    load_weights(again, weights, num_outputs=3, source="a run")
    assert_same(again.state_dict(), trained.main_state_dict())


class Executed:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_with_code_is_refused_and_not_executed(save: Callable[..., object], tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save({"weight": torch.zeros(2), "code": Executed(tmp_path / "executed")}, path)
    with pytest.raises(NetworkError, match=r"weights\.pt is not a file of weights") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "network.pt")
    with pytest.raises(NetworkError, match="is not a file of weights"):
        read_weights(tmp_path / "network.pt")


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors", "none/weights.pt"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=rf"weights .*{name} cannot be read \(.*[Nn]o such file"):
        read_weights(tmp_path / name)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"checkpoint\.safetensors cannot be read"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b'{"a": 1}' * 10])
@pytest.mark.parametrize("suffix", ["pt", "safetensors", "pth"])
def test_a_broken_file_is_named(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(content)
    with pytest.raises(
        NetworkError, match=rf"broken\.{suffix} is not a file of weights \(.+\); give a state dict"
    ) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_half_a_file_is_broken(suffix: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    if suffix == "pt":
        torch.save(network().state_dict(), whole)
    else:
        safetensors.torch.save_file(network().state_dict(), whole)
    half = tmp_path / f"half.{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(NetworkError, match=r"half\.\w+ is not a file of weights"):
        read_weights(half)


@pytest.mark.parametrize(
    ("value", "kind"), [([torch.zeros(2)], "list"), ({"epoch": 3}, "dict"), (torch.ones(1), "Tensor")]
)
def test_what_is_no_state_dict_is_refused(value: object, kind: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "weights.pt")
    with pytest.raises(NetworkError, match=rf"contains a {kind}, not a state dict.*; save model\.state_dict\(\)"):
        read_weights(tmp_path / "weights.pt")


# --- loading ---------------------------------------------------------------------------------------------------------


def test_weights_arrive_bit_for_bit() -> None:
    source, target = network(), network()
    source[1].running_mean.uniform_()
    load_weights(target, {"": source.state_dict()}, num_outputs=3, source="file")
    assert_same(target.state_dict(), source.state_dict())


def test_old_files_without_batch_counts_are_read() -> None:
    source, target = network(), network()
    state = {name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name}
    load_weights(target, {"": state}, num_outputs=3, source="file")
    assert torch.equal(target[0].weight, source[0].weight)


def test_another_number_of_classes_makes_a_new_head_and_says_so() -> None:
    source, target = network(7), network(3)
    head = target[3].weight.clone()
    with pytest.warns(NetworkWarning, match="^file is for 7 outputs, not 3: 3 is new, starts at zero"):
        load_weights(target, {"": source.state_dict()}, num_outputs=3, source="file")
    assert torch.equal(target[3].weight, head)
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[1].running_mean, source[1].running_mean)


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name not in names}


MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "missing": (lambda state: without(state, "0.weight"), r"lacks 1 of 9 tensors \(0\.weight\);"),
    "many missing": (
        lambda state: {"0.weight": state["0.weight"]},
        r"lacks 7 of 9 tensors \(0\.bias, 1\.weight, 1\.bias, 1\.running_mean, 1\.running_var and 2 more\);",
    ),
    "unexpected": (
        lambda state: state | {f"aux.{index}": torch.zeros(2) for index in range(6)},
        r"has 6 that the network does not have \(aux\.0, aux\.1, aux\.2, aux\.3, aux\.4 and 1 more\);",
    ),
    "another network": (
        lambda state: {f"layer{name}": tensor for name, tensor in state.items()},
        r"lacks 8 of 9 tensors \(0\.weight, .*\), and has 8 that .* \(layer0\.weight, .*\);",
    ),
    "shape": (
        lambda state: state | {"0.weight": torch.zeros(4, 3, 5, 5)},
        r"differs in 1 shape \(0\.weight is \[4, 3, 5, 5\] there, \[4, 3, 3, 3\] in the network\);",
    ),
    "width": (lambda state: state | {"3.weight": torch.zeros(3, 99)}, r"differs in 1 shape \(3\.weight"),
    "nothing": (lambda state: {}, "lacks 8 of 9"),
}


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_named_and_changes_nothing(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(NetworkError, match=rf"file does not fit Sequential: {message} .*give") as caught:
        load_weights(model, {"": change(network().state_dict())}, num_outputs=3, source="file")
    assert "\n" not in str(caught.value)
    assert_same(model.state_dict(), before)


# --- a network from weights ------------------------------------------------------------------------------------------

CONFIG = NetworkConfig(model="mobilenet_v3_small", image_size=32, num_outputs=3, groups=3)


def test_weights_of_a_resnet_for_images_of_another_size_say_which() -> None:
    width = {"width": 16}
    small, large = (
        build_model(NetworkConfig(model="resnet18", model_args=width, image_size=side)) for side in (32, 96)
    )
    with pytest.raises(NetworkError, match=r"differs in 1 shape \(conv1.*3x3 .* up to 64 pixels.*`image_size`"):
        load_weights(small, {"": large.state_dict()}, num_outputs=10, source="file")


def original(num_outputs: int) -> nn.Module:
    return models.mobilenet_v3_small(weights=None, num_classes=num_outputs).eval()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_trained_network_goes_in_and_out_unchanged(suffix: str, tmp_path: Path) -> None:
    model, path = original(3), tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save(model.state_dict(), path)
    else:
        safetensors.torch.save_file(model.state_dict(), path)
    cut = build_network(CONFIG, weights=str(path)).eval()
    assert_same(cut.main_state_dict(), model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(cut(x), model(x))


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "other.pt")
    with pytest.raises(NetworkError, match=r"weights .*other\.pt does not fit MobileNetV3: lacks .*features\.0"):
        build_network(CONFIG, weights=str(tmp_path / "other.pt"))


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    """Set up torchvision's cache of downloads, in an empty folder, and no way to the network."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")  # the port of "discard": nobody answers
        for name in ("no_proxy", "NO_PROXY"):
            patch.delenv(name, raising=False)
        yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def cached(hub: Path, model: nn.Module) -> None:
    hub.mkdir(parents=True)
    url = models.MobileNet_V3_Small_Weights.DEFAULT.url
    torch.save(model.state_dict(), hub / url.rpartition("/")[2])


def test_default_weights_are_torchvisions(hub: Path) -> None:
    model = original(1000)
    cached(hub, model)
    config = NetworkConfig(model="mobilenet_v3_small", image_size=32, num_outputs=1000, groups=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut = build_network(config, weights="default")
    assert_same(cut.main_state_dict(), model.state_dict())


def test_default_weights_get_a_new_head(hub: Path) -> None:
    model = original(1000)
    cached(hub, model)
    with pytest.warns(NetworkWarning, match=r"weights default is for 1000 outputs, not 3: classifier\.3 is new"):
        cut = build_network(CONFIG, weights="default")
    main, state = cut.main_state_dict(), model.state_dict()
    assert [name for name in main if not torch.equal(main[name], state[name])] == [
        "classifier.3.weight",
        "classifier.3.bias",
    ]


def test_without_a_connection_the_way_out_is_named(hub: Path) -> None:
    with pytest.raises(NetworkError, match=r"cannot load .*mobilenet_v3_small \(.+\); give a file") as caught:
        build_network(CONFIG, weights="default")
    assert "\n" not in str(caught.value)
    assert not list(hub.glob("*"))


def test_a_broken_download_is_named(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / models.MobileNet_V3_Small_Weights.DEFAULT.url.rpartition("/")[2]).write_bytes(b"broken")
    with pytest.raises(NetworkError, match=r"cannot load .*mobilenet_v3_small") as caught:
        build_network(CONFIG, weights="default")
    assert "\n" not in str(caught.value)


def test_networks_of_our_own_have_no_default_weights() -> None:
    with pytest.raises(ConfigError, match="vgg-lct has no default weights"):
        build_network(NetworkConfig(model="vgg-lct"), weights="default")


def test_a_child_called_module_is_no_prefix(tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module("module", nn.Linear(4, 2))
    model.add_module("head", nn.Linear(2, 2))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again = copy.deepcopy(model)
    again.head.reset_parameters()
    load_weights(again, read_weights(tmp_path / "weights.pt"), num_outputs=2, source="file")
    assert_same(again.state_dict(), model.state_dict())


class WithAuxiliary(nn.Module):
    """Has a head that no group runs."""

    def __init__(self, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(in_channels, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.auxiliary, self.fc = nn.Linear(4, num_classes), nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Any:
        h = self.a(x).relu()
        y = self.fc(self.b(h).mean((2, 3)))
        return (y, self.auxiliary(h.mean((2, 3)))) if self.training else y


@pytest.mark.filterwarnings("ignore:WithAuxiliary's auxiliary:lctprune.errors.NetworkWarning")
def test_a_run_without_the_auxiliary_head_is_read(data: lct.Data, tmp_path: Path) -> None:
    recipe = NetworkConfig(model=f"{__name__}:WithAuxiliary", num_outputs=3, in_channels=1, image_size=8, groups=2)
    network = lct.build_network(recipe)
    run = lct.train(network, data, lct.TrainConfig(epochs=1, batch_size=32), run_dir=tmp_path / "run")
    again = lct.build_network(recipe, weights=str(run.path))
    assert_same(again.main_state_dict(), network.main_state_dict())
    narrow = dataclasses.replace(recipe, model="vgg-lct", model_args={"width": 4}, image_size=16)
    with pytest.raises(NetworkError, match=r"does not fit \w+: lacks"):
        lct.build_network(narrow, weights=str(run.path))


def test_the_blocks_of_another_network_are_no_sets_of_weights() -> None:
    """A file of ResNet-18's weights has eight blocks alike, none of which is half a network."""
    own = {f"{name}.{kind}": torch.zeros(2) for name in "abcdefgh" for kind in ("weight", "bias")}
    given = {f"layer.{block}.a.{kind}": torch.randn(2) for block in range(3) for kind in ("weight", "bias")}
    fit = fit_names({"": given}, own, source="weights")
    assert (fit.prefix, fit.tensors) == ("", given)
