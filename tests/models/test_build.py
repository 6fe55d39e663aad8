"""Built-in networks: their costs, the recipe that builds them again, and one contract for all."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torchvision.models import resnet

import lctprune as lct
from lctprune.config.network import ALIASES, NetworkConfig
from lctprune.errors import ConfigError, NetworkError
from lctprune.models.build import MODELS, build_network
from lctprune.models.images import _set_width

SEQUENCES = ("lstm", "gru", "transformer", "mlp")


def costs(network: lct.LocalCriticNetwork, example: torch.Tensor) -> tuple[list[float], list[float]]:
    """Millions of multiply-adds and of parameters of each sub-network."""
    subnetworks = [network.subnetwork(exit) for exit in range(len(network.groups))]
    macs = [lct.count_flops(subnetwork, example) / 2e6 for subnetwork in subnetworks]
    return macs, [lct.count_parameters(subnetwork) / 1e6 for subnetwork in subnetworks]


def test_the_papers_network_has_the_papers_costs() -> None:
    # Table 5, with multiply-adds corrected for spatial reuse (the paper's "FLOPs" are twice the parameters)
    config = NetworkConfig(model="vgg-lct", critic="paper")
    macs, parameters = costs(build_network(config), config.example)
    assert [f"{each:.1f}" for each in macs] == ["116.3", "172.0", "247.2", "322.7"]
    assert [f"{each:.2f}" for each in parameters] == ["1.42", "0.88", "2.26", "7.87"]


def test_width_of_the_papers_network() -> None:
    """Channels follow the width; the weights of its convolutions then by its square, but for the first."""
    build = MODELS["vgg-lct"]
    plain, paper, narrow = (
        build(num_outputs=7, in_channels=1, image_size=32, **arguments)
        for arguments in ({}, {"width": 64}, {"width": 8})
    )
    assert {name: tensor.shape for name, tensor in plain.state_dict().items()} == {
        name: tensor.shape for name, tensor in paper.state_dict().items()
    }
    channels = [module.out_channels for module in narrow.modules() if isinstance(module, torch.nn.Conv2d)]
    assert channels == [8] * 2 + [16] * 3 + [32] * 3 + [64] * 3
    assert narrow(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_the_papers_cuts_hold_for_its_number_of_groups_only() -> None:
    four = build_network(NetworkConfig(model="vgg-lct", groups=4))
    assert [name for group in four.groups for name, _ in group.named_children()] == [
        "stage1",
        "stage2",
        "stage3",
        "stage4",
        "head",
    ]
    three = build_network(dataclasses.replace(NetworkConfig(model="vgg-lct", groups=4), groups=3))
    assert len(three.groups) == 3


def test_cost_of_a_resnet_for_small_images() -> None:
    model = MODELS["resnet18"](num_outputs=10, in_channels=3, image_size=32)
    # by hand: stem, then per stage the convolutions with 3x3 kernels, the 1x1 shortcuts, and the linear layer
    stem = 9 * 3 * 64 * 32**2
    stage1 = 4 * 9 * 64 * 64 * 32**2
    later = sum(
        (9 * (c // 2) * c + 3 * 9 * c * c + (c // 2) * c) * side**2 for c, side in [(128, 16), (256, 8), (512, 4)]
    )
    macs = stem + stage1 + later + 512 * 10
    assert lct.count_flops(model, torch.zeros(1, 3, 32, 32)) == 2 * macs
    assert f"{macs / 1e6:.1f}" == "555.4"


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", (2, 2, 2, 2)), ("resnet34", (3, 4, 6, 3))])
@pytest.mark.parametrize("image_size", [32, 96])
def test_width_of_a_resnet(name: str, blocks: tuple[int, ...], image_size: int) -> None:
    """At the width of 64 what is built by hand is torchvision's network, and the channels follow any other."""
    build = MODELS[name]
    plain, narrow = (build(num_outputs=7, in_channels=3, image_size=image_size, width=width) for width in (64, 24))
    model = resnet.ResNet(resnet.BasicBlock, list(blocks))
    _set_width(model, 64, least=8)
    reference = resnet.ResNet(resnet.BasicBlock, list(blocks)).state_dict()
    assert {key: each.shape for key, each in model.state_dict().items()} == {k: v.shape for k, v in reference.items()}
    assert {key: each.dim() for key, each in narrow.state_dict().items()} == {
        key: each.dim() for key, each in plain.state_dict().items()
    }
    convolutions = [module for module in narrow.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [convolutions[0].out_channels, convolutions[-1].out_channels] == [24, 192]
    assert narrow(torch.zeros(2, 3, image_size, image_size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("model", "width", "says"),
    [
        ("resnet18", 0, "at least 1"),
        ("vgg-lct", 0, "at least 1"),
        ("resnet50", 32, "basic blocks"),
        ("resnet18", 7, r"width is 7; a ResNet needs at least 8 channels for images of this size"),
    ],
)
def test_widths_that_cannot_be_are_refused(model: str, width: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_network(NetworkConfig(model=model, model_args={"width": width}))


def test_resnet_is_resnet18() -> None:
    assert NetworkConfig(model="resnet") == NetworkConfig(model="resnet18")
    assert set(ALIASES.values()) <= set(MODELS)


@pytest.mark.parametrize("image_size", [64, 65])
def test_stem_of_a_resnet(image_size: int) -> None:
    model = MODELS["resnet18"](num_outputs=10, in_channels=3, image_size=image_size)
    is_small = image_size <= 64
    assert model.conv1.kernel_size == ((3, 3) if is_small else (7, 7))
    assert isinstance(model.maxpool, torch.nn.Identity) == is_small


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_an_unknown_model_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(
        ConfigError, match=r"'lenet' is unknown; .*known are resnet, resnet18, .*vgg-lct.*lctprune models"
    ):
        build_network(NetworkConfig(model="lenet"))


@pytest.mark.parametrize(("wrong", "right"), [("resnet81", "resnet18"), ("mobilenet_v3_smal", "mobilenet_v3_small")])
def test_an_unknown_model_may_be_a_slip(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError, match=rf"{wrong!r} is unknown; did you mean .*{right}.*\? known are"):
        build_network(NetworkConfig(model=wrong))


SIZES = ["groups", "num_outputs", "in_channels", "image_size", "steps", "features", "vocabulary"]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_are_at_least_one(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}; it must be at least 1"):
        NetworkConfig(**{name: value})


def test_split_points_decide_the_number_of_groups() -> None:
    config = NetworkConfig(split_at=("layer1", "layer3"), groups=7)
    assert config.groups == 3
    assert len(build_network(config).groups) == 3


RECIPES = {
    "default": NetworkConfig(image_size=8),
    "plain": NetworkConfig(groups=1, image_size=8, num_outputs=3),
    "split": NetworkConfig(split_at=("layer1", "layer2.0"), image_size=8, critic="pooled", critic_depth=(2, 1)),
    "paper": NetworkConfig(model="vgg-lct", critic="paper", image_size=9, in_channels=1, num_outputs=2),
    "alias": NetworkConfig(model="resnet", groups=2, image_size=70, in_channels=2),
}


@pytest.mark.parametrize("config", RECIPES.values(), ids=RECIPES)
def test_a_recipe_survives_json_and_builds_the_same_network(config: NetworkConfig) -> None:
    read_back = NetworkConfig(**json.loads(json.dumps(config.to_dict())))
    assert read_back == config
    network, again = build_network(config), build_network(read_back)
    kinds = network.critic_kinds or None if config.critic == "auto" else None
    names = network.cut_point_names or None
    recorded = dataclasses.replace(
        config, cuts=network.cuts, cut_point_names=names, critic_kinds=kinds, tracing=network.tracing
    )
    assert network.recipe == again.recipe == recorded
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes
    again.load_state_dict(network.state_dict())
    x = torch.randn(2, *config.example.shape[1:])
    for output, expected in zip(again.eval().exits(x), network.eval().exits(x), strict=True):
        assert torch.equal(output, expected)


def test_weights_come_from_the_global_generator() -> None:
    config = NetworkConfig(image_size=8)
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_network(config).state_dict())
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)
    assert not torch.equal(states[2]["groups.0.conv1.weight"], states[0]["groups.0.conv1.weight"])


# --- one contract for every model -------------------------------------------------------------------------------------


def recipes() -> list[NetworkConfig]:
    """Each built-in network on each kind of input that it takes, as small as can be."""
    maps = [(name, 3) for name in MODELS if name not in SEQUENCES]
    images = [
        NetworkConfig(model=name, image_size=8, in_channels=channels, num_outputs=4)
        for name, channels in [*maps, ("resnet18", 1), ("vgg-lct", 1)]
    ]
    small: dict[str, Any] = {"num_outputs": 4, "model_args": {"width": 16}}
    recurrent = [
        NetworkConfig(model=name, **small, **inputs)
        for name in ("lstm", "gru", "transformer")
        for inputs in ({"steps": 6, "vocabulary": 9}, {"steps": 6, "features": 5})
    ]
    return [*images, *recurrent, NetworkConfig(model="mlp", features=5, **small)]


@pytest.mark.parametrize(
    "config", recipes(), ids=lambda each: f"{each.model}-{each.vocabulary or each.features or each.in_channels}"
)
def test_one_step_gives_every_parameter_a_gradient(config: NetworkConfig) -> None:
    torch.manual_seed(0)
    network = build_network(config).train()
    shape = config.example.shape[1:]
    x = torch.randint(1, 9, (3, *shape)) if config.vocabulary else torch.randn(3, *shape)
    losses = lct.local_critic_backward(network, x, torch.tensor([0, 3, 1]))
    assert len(losses) == 4
    assert all(each.shape == (3,) and each.isfinite().all() for each in losses)
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    assert [output.shape for output in network.eval().exits(x)] == [(3, 4)] * 4
    original = build_network(dataclasses.replace(config, groups=1))
    assert network.main_state_dict().keys() == original.main_state_dict().keys()


def test_every_built_in_network_is_in_the_contract() -> None:
    assert {config.model for config in recipes()} == set(MODELS)


def test_a_sequence_network_needs_to_know_its_input() -> None:
    with pytest.raises(
        ConfigError,
        match=r"mlp needs features, .*num_outputs, in_channels, image_size",
    ):
        build_network(NetworkConfig(model="mlp"))


def test_further_arguments_reach_the_model() -> None:
    config = NetworkConfig(model="lstm", vocabulary=9, steps=6, model_args={"width": 12, "layers": 5})
    assert build_network(config).main_state_dict()["layer5.cell.weight_hh_l0"].shape == (48, 12)


def test_further_arguments_that_a_model_does_not_take_are_refused() -> None:
    with pytest.raises(ConfigError, match="vgg-lct does not take depth; it takes num_outputs, in_channels, image_size"):
        build_network(NetworkConfig(model="vgg-lct", model_args={"depth": 3}))


def test_grey_images_at_full_size() -> None:
    config = NetworkConfig(in_channels=1, image_size=65, groups=2)
    network = build_network(config).eval()
    assert network(torch.randn(2, 1, 65, 65)).shape == (2, 10)
    assert network.main_state_dict()["conv1.weight"].shape == (64, 1, 7, 7)


@pytest.mark.parametrize("balance", ["flops", "time", "memory"])
def test_a_recipe_remembers_the_cuts_that_were_measured(balance: str) -> None:
    config = NetworkConfig(model="mlp", features=6, model_args={"layers": 8, "width": 16}, balance=balance)
    network = build_network(config)
    assert network.recipe is not None
    assert len(network.recipe.cuts or ()) == 3
    again = build_network(dataclasses.replace(network.recipe, balance="time"))  # would be measured anew
    assert list(again.state_dict()) == list(network.state_dict())


def test_the_papers_cuts_give_way_to_a_balance_that_is_asked_for() -> None:
    networks = [build_network(NetworkConfig(model="vgg-lct", balance=balance)) for balance in ("flops", "memory")]
    assert networks[0].cuts != networks[1].cuts


def test_the_cuts_suit_the_training() -> None:
    """Small batches are all weights, large ones all activations."""
    config = NetworkConfig(model="vgg-lct", balance="memory")
    small, large = (build_network(config, training=lct.TrainConfig(batch_size=size)) for size in (1, 1024))
    assert small.cuts != large.cuts
    assert build_network(config).cuts == build_network(config, training=lct.TrainConfig()).cuts


@pytest.mark.parametrize("name", ["num_classes", "num_outputs", "image_size", "pretrained", "checkpoint_path"])
def test_arguments_that_the_data_or_the_weights_decide_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"may not contain {name}"):
        build_network(NetworkConfig(model="mobilenet_v3_small", model_args={name: 3}))


@pytest.mark.parametrize("exit", [0, 1, 2])
def test_a_recipe_of_one_exit_is_that_exit_as_a_plain_network(exit: int) -> None:
    settings = {"model": "mlp", "model_args": {"width": 8}, "features": 3, "groups": 3, "critic_width": (0.5, 1)}
    whole = build_network(NetworkConfig(**settings))
    alone = build_network(NetworkConfig(**settings, exit=exit))
    assert (len(alone.groups), len(alone.critics)) == (1, 0)
    alone.groups[0].load_state_dict(whole.subnetwork(exit).state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(alone.eval()(x), whole.eval().exits(x)[exit])
    again = build_network(NetworkConfig(**alone.recipe.to_dict()))
    again.load_state_dict(alone.state_dict())
    with pytest.raises(NetworkError, match="exit 3 does not exist"):
        build_network(NetworkConfig(**settings, exit=3))


def test_the_width_of_critics_is_part_of_the_recipe() -> None:
    network = build_network(NetworkConfig(model="mlp", features=3, groups=3, critic_width=[0.5, 2]))
    assert network.recipe.critic_width == (0.5, 2)
    again = build_network(NetworkConfig(**network.recipe.to_dict()))
    again.load_state_dict(network.state_dict())
