"""Every exit costs less than the next one and the main network; what was made smaller for that is said and kept."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

import lctprune as lct
from lctprune.config.data import DataConfig
from lctprune.config.network import NetworkConfig
from lctprune.critic_blocks import TailBlock
from lctprune.models.build import build_network
from lctprune.network import LocalCriticNetwork
from lctprune.partition.critic_sizes import SHARE, has_depthwise_blocks
from lctprune.workflows.session import begin
from lctprune.workflows.session_settings import SessionSettings

TEXT, ROWS = {"vocabulary": 500, "steps": 16}, {"features": 16}
QUICK = ["mobilenet_v3_small", "shufflenet_v2_x0_5", "mlp", "vgg-lct:4", "lstm"]
SMALL = [
    *QUICK,
    *("resnet18:8", "resnet18:16", "resnet34:8", "vgg-lct:8", "vgg-lct:16", "gru", "transformer"),
    *("resnet18", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0", "squeezenet1_1", "mnasnet0_5"),
    *("efficientnet_b0", "regnet_y_400mf", "densenet121", "googlenet", "timm/vit_tiny_patch16_224"),
    *("timm/lcnet_050", "timm/tinynet_e", "timm/mobilevit_xxs", "timm/mobilenetv4_conv_small", "timm/ghostnet_050"),
    "timm/convnext_atto",
]


def settings_of(name: str, side: int) -> NetworkConfig:
    model, _, width = name.partition(":")
    inputs: dict[str, Any] = {"image_size": side}
    if model in ("lstm", "gru", "transformer", "mlp"):
        inputs = ROWS if model == "mlp" else TEXT
    return NetworkConfig(model=model, model_args={"width": int(width)} if width else {}, **inputs)


def exit_costs(network: LocalCriticNetwork, example: torch.Tensor) -> tuple[list[int], list[int]]:
    exits = [network.subnetwork(index) for index in range(len(network.groups))]
    return [lct.count_flops(each, example) for each in exits], [lct.count_parameters(each) for each in exits]


def check_promise(network: LocalCriticNetwork, example: torch.Tensor) -> None:
    flops, parameters = exit_costs(network, example)
    assert flops == sorted(set(flops))
    assert parameters == sorted(set(parameters))
    for index, (own, following) in enumerate(itertools.pairwise(flops)):
        start = lct.count_flops(nn.Sequential(*network.groups[: index + 1]), example)
        is_smallest = network.critic_kinds[index] == "normalized"
        assert own - start <= SHARE * (following - start) or is_smallest


@pytest.mark.filterwarnings("ignore:GoogLeNet's auxiliary outputs:lctprune.NetworkWarning")
@pytest.mark.parametrize("side", [32, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in SMALL[len(QUICK) :])]
)
def test_every_exit_costs_less_than_the_next(name: str, side: int) -> None:
    config = settings_of(name, 64 if side == 64 and ":8" not in name else 32)
    network = build_network(config)
    check_promise(network, config.example)
    flops, parameters = exit_costs(network, config.example)
    fractions = [
        f"{own / flops[-1]:.0%} / {some / parameters[-1]:.0%}" for own, some in zip(flops, parameters, strict=True)
    ]
    print(f"{name} at {side}: FLOPs / parameters of exits {', '.join(fractions)}")  # noqa: T201  # seen with pytest -s


def narrow(width: int = 8) -> nn.Sequential:
    def block(inside: int, outside: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU())

    blocks = [block(3, width, 1), block(width, width, 2), block(width, 2 * width, 2)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


IMAGE = torch.zeros(1, 3, 16, 16)


@pytest.mark.parametrize("width", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("groups", [2, 3])
def test_exits_of_narrow_networks_are_cheaper_in_flops_and_parameters(width: int, groups: int) -> None:
    network = lct.attach_critics(narrow(width), IMAGE, num_outputs=10, groups=groups)
    check_promise(network, IMAGE)
    losses = lct.local_critic_backward(network, torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3]))
    assert all(loss.isfinite().all() for loss in losses)


def test_what_was_made_smaller_is_said_in_one_line() -> None:
    network = lct.attach_critics(narrow(), IMAGE, num_outputs=10, groups=3)
    said = f"exit 0: tail, {network.critic_widths[0]:g} x as wide; exit 1: normalized"
    assert network.notes == (f"smaller critics than usual, so that exits cost less ({said})",)


@pytest.mark.parametrize(
    "settings", [{"critic": "tail"}, {"critic_width": [1]}, {"critic": "paper"}, {"critic_depth": [1]}]
)
def test_critics_that_were_asked_for_stay_and_dear_exits_are_named(settings: dict[str, Any]) -> None:
    network = lct.attach_critics(narrow(), IMAGE, num_outputs=10, groups=3, **settings)
    assert network.critic_widths == (1, 1)
    flops, parameters = exit_costs(network, IMAGE)
    dear = [index for index in (0, 1) if flops[index] >= flops[-1] or parameters[index] >= parameters[-1]]
    assert [note[: len("exit 0 saves nothing")] for note in network.notes] == [f"exit {k} saves nothing" for k in dear]
    assert f"{flops[0] / flops[-1]:.0%} of the main network's FLOPs" in network.notes[0]


@pytest.mark.parametrize("settings", [{"features": 8}, {"features": 2, "model_args": {"width": 64}}])
def test_an_exit_before_the_last_linear_layer_costs_less_than_the_network(settings: dict[str, Any]) -> None:
    config = NetworkConfig(model="mlp", **settings)
    network = build_network(config)
    flops, parameters = exit_costs(network, config.example)
    assert flops == sorted(set(flops))
    assert parameters == sorted(set(parameters))
    assert min(network.critic_widths) < 1
    assert not network.notes  # there is nothing to do about it


def test_an_exit_that_no_critic_makes_cheaper_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 400), nn.ReLU(), nn.Linear(400, 2), nn.ReLU(), nn.Linear(2, 100))
    network = lct.attach_critics(model, torch.zeros(1, 4), num_outputs=100, split_at=["1"])
    assert network.critic_kinds == ("normalized",)
    assert any(note.startswith("exit 0 saves nothing") and "cut earlier" in note for note in network.notes)


@pytest.mark.parametrize(
    "config",
    [
        *(NetworkConfig(model_args={"width": 8}, image_size=side) for side in (8, 32)),
        NetworkConfig(model_args={"width": 16}, image_size=32),
        NetworkConfig(model="vgg-lct", model_args={"width": 16}),
        NetworkConfig(model="lstm", **TEXT),
        NetworkConfig(model="transformer", **TEXT),
        *(
            pytest.param(NetworkConfig(model=model, image_size=side), marks=pytest.mark.slow)
            for model, side in (("resnet18", 32), ("resnet18", 224), ("resnet50", 224))
        ),
    ],
    ids=lambda config: f"{config.model}-{config.model_args}-{config.image_size}",
)
def test_critics_that_cost_little_are_those_of_the_kind_tail_to_the_bit(config: NetworkConfig) -> None:
    states = []
    for critic in ("auto", "tail"):
        torch.manual_seed(0)
        network = build_network(dataclasses.replace(config, critic=critic))  # type: ignore[arg-type]
        assert not network.notes
        states.append(dict(network.state_dict()))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_choosing_takes_nothing_from_the_random_generator() -> None:
    torch.manual_seed(0)
    chosen = lct.attach_critics(narrow(), IMAGE, num_outputs=10, groups=3)
    torch.manual_seed(0)
    model = narrow()
    again = lct.attach_critics(
        model, IMAGE, num_outputs=10, groups=3, critic=chosen.critic_kinds, critic_width=chosen.critic_widths
    )
    torch.testing.assert_close(dict(again.state_dict()), dict(chosen.state_dict()), rtol=0, atol=0)


# --- depthwise blocks ------------------------------------------------------------------------------------------------


def test_networks_of_depthwise_blocks_get_depthwise_critics() -> None:
    network = lct.attach_critics(mobilenet_v2(num_classes=10), torch.zeros(1, 3, 64, 64), num_outputs=10)
    assert set(network.critic_kinds) == {"depthwise"}
    spatial = [m for m in network.critics.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert spatial
    assert all(convolution.groups == convolution.in_channels for convolution in spatial)
    for critic in network.critics:
        assert any(isinstance(each, nn.BatchNorm2d | nn.LayerNorm) for each in list(critic.children())[:3])


@pytest.mark.parametrize("shape", [(8, 1, 1), (24, 2, 2), (12, 4, 4)])
@pytest.mark.parametrize("kind", ["depthwise", "normalized"])
def test_critics_of_small_maps_normalise_every_channel(kind: str, shape: tuple[int, ...]) -> None:
    critic = lct.make_critic(kind, shape, 3).train()
    x = torch.randn(4, *shape)
    scale, shift = 10 ** (4 * torch.rand(shape[0], 1, 1)), 100 * torch.randn(shape[0], 1, 1)
    torch.testing.assert_close(critic(scale * (x + shift)), critic(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("width", [4, 6, 8, 16])
@pytest.mark.parametrize("side", [16, 32])
def test_no_tail_is_narrower_than_what_learns(width: int, side: int) -> None:
    network = lct.attach_critics(narrow(width), torch.zeros(1, 3, side, side), num_outputs=10, groups=3)
    narrowed = [c for c, w in zip(network.critics, network.critic_widths, strict=True) if w < 1]
    for critic in narrowed:
        first = next(each for each in critic.modules() if isinstance(each, nn.Conv2d))
        assert first.out_channels > 1
        blocks = sum(isinstance(each, TailBlock) for each in critic.modules())
        assert blocks > 1 or critic[-1].in_features >= min(first.in_channels, 10)  # type: ignore[index,operator]


def test_a_few_depthwise_convolutions_do_not_make_a_network_of_them() -> None:
    plain, depthwise = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4)
    pointwise, grouped, grey = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(1, 4, 3)
    assert has_depthwise_blocks(nn.Sequential(depthwise, pointwise, pointwise))
    assert not has_depthwise_blocks(nn.Sequential(depthwise, plain, pointwise))
    assert not has_depthwise_blocks(nn.Sequential(grouped, grey))
    assert not has_depthwise_blocks(nn.Linear(4, 4))


# --- recorded, and built again ---------------------------------------------------------------------------------------


def test_a_recipe_records_what_was_chosen_and_builds_it_again() -> None:
    config = NetworkConfig(model="mlp", model_args={"width": 8}, features=4)
    network = build_network(config)
    assert network.recipe is not None
    assert network.recipe.critic_kinds == network.critic_kinds
    assert network.recipe.critic_width == network.critic_widths
    assert min(network.critic_widths) < 1
    again = build_network(NetworkConfig(**network.recipe.to_dict()))
    assert [(name, each.shape) for name, each in again.state_dict().items()] == [
        (name, each.shape) for name, each in network.state_dict().items()
    ]
    assert again.recipe == network.recipe
    assert not again.notes


def test_runs_from_before_have_the_critics_that_they_were_trained_with() -> None:
    """They recorded the kind, and no width: critics of full width, whatever they cost."""
    config = NetworkConfig(model="mlp", model_args={"width": 8}, features=4)
    old = {**build_network(config).recipe.to_dict(), "critic": "tail", "critic_width": None}  # type: ignore[union-attr]
    del old["critic_kinds"]
    network = build_network(NetworkConfig(**old))
    expected = build_network(dataclasses.replace(config, critic="tail"))
    assert network.critic_kinds == ("tail",) * 3
    assert network.critic_widths == (1,) * 3
    assert network.state_dict().keys() == expected.state_dict().keys()
    assert network.recipe is not None
    assert network.recipe.to_dict() == old


def test_a_run_that_is_resumed_keeps_its_critics(tmp_path: Path) -> None:
    rows = [f"{i % 7},{i % 5},{i % 3},{'even' if i % 2 else 'odd'}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,c,label", *rows]) + "\n")
    network = NetworkConfig(model="mlp", model_args={"width": 8})
    training = lct.TrainConfig(epochs=1)
    data = DataConfig(name=str(tmp_path / "rows.csv"))
    settings = SessionSettings(network=network, data=data, training=training, out=tmp_path / "run")
    session = begin(settings)
    recorded = session.opened.config.network
    assert recorded is not None
    assert recorded.critic_kinds == session.network.critic_kinds
    for _ in session.steps():
        pass
    resumed = begin(dataclasses.replace(settings, resume=True))
    assert resumed.network.critic_widths == session.network.critic_widths
    loaded = lct.load_network(tmp_path / "run")
    assert loaded.state_dict().keys() == session.network.state_dict().keys()
