"""Built-in networks by name, and the recipe from which a run builds its network again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torchvision.models import resnet

from lctprune.errors import ConfigError
from lctprune.network import LocalCriticNetwork
from lctprune.partition import attach_critics, cut_places
from lctprune.settings import setting

SMALL_IMAGE = 64  # up to this side a ResNet gets the 3x3 stem without pooling that is usual for CIFAR


def vgg_lct(*, num_outputs: int, in_channels: int, image_size: int) -> nn.Module:
    """The network of the paper's Tables 4 and 5: four stages of 3x3 convolutions, then a linear layer."""
    stages: list[nn.Module] = []
    channels = in_channels
    for stage, widths in enumerate([(64, 64), (128, 128, 128), (256, 256, 256), (512, 512, 512)]):
        layers: list[nn.Module] = []
        for position, width in enumerate(widths):
            stride = 2 if stage > 0 and position == 0 else 1
            layers += [
                nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        stages.append(nn.Sequential(*layers))
    side = -(-image_size // 8)
    head = nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, num_outputs))
    names = ("stage1", "stage2", "stage3", "stage4", "head")
    network = nn.Sequential()
    for name, module in zip(names, [*stages, head], strict=True):
        network.add_module(name, module)
    return network


def _resnet(build: Callable[..., resnet.ResNet]) -> Callable[..., nn.Module]:
    def network(*, num_outputs: int, in_channels: int, image_size: int) -> nn.Module:
        model = build(num_classes=num_outputs)
        if image_size <= SMALL_IMAGE:
            model.conv1 = _stem_convolution(in_channels, kernel_size=3, stride=1)
            model.maxpool = nn.Identity()
        elif in_channels != 3:
            model.conv1 = _stem_convolution(in_channels, kernel_size=7, stride=2)
        return cast(nn.Module, model)

    return network


def _stem_convolution(in_channels: int, *, kernel_size: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, 64, kernel_size, stride, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    return convolution


# name -> function of num_outputs, in_channels and image_size
MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": _resnet(resnet.resnet18),
    "resnet34": _resnet(resnet.resnet34),
    "resnet50": _resnet(resnet.resnet50),
    "resnet101": _resnet(resnet.resnet101),
    "vgg-lct": vgg_lct,
}
ALIASES = {"resnet": "resnet18"}
# where the paper cuts, for the number of groups that it uses; otherwise cuts balance FLOPs
PAPER_CUTS = {("vgg-lct", 4): ("stage1", "stage2", "stage3")}


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How to build a network with critics: everything that a run must remember of it.

    Raises:
        ConfigError: a value is out of range, or the model is unknown.
    """

    model: str = setting("resnet18", "Built-in network.")
    groups: int = setting(4, "Layer groups: one exit each. 1 is the plain network.")
    split_at: tuple[str, ...] | None = setting(None, "End a group after each of these modules.")
    critic: str = setting("tail", "Kind of critic: tail, pooled or paper.")
    critic_depth: tuple[int, ...] | None = setting(None, "3x3 convolutions of each critic (paper and pooled).")
    num_outputs: int = setting(10, "Width of the output: number of classes.")
    in_channels: int = setting(3, "Channels of an image.")
    image_size: int = setting(32, "Side of an image in pixels.")

    def __post_init__(self) -> None:
        model = ALIASES.get(self.model, self.model)
        if model not in MODELS:
            raise ConfigError(f"model {self.model!r} is unknown; known: {', '.join([*ALIASES, *MODELS])}")
        object.__setattr__(self, "model", model)
        for name in ("groups", "num_outputs", "in_channels", "image_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("split_at", "critic_depth"):  # lists, when read back from JSON
            value: Any = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.split_at:
            object.__setattr__(self, "groups", len(self.split_at) + 1)

    @property
    def example(self) -> torch.Tensor:
        """One blank input, [1, channels, height, width]."""
        return torch.zeros(1, self.in_channels, self.image_size, self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a run's config.json."""
        return dataclasses.asdict(self)


def build_network(config: NetworkConfig) -> LocalCriticNetwork:
    """A new network with critics; its weights come from PyTorch's global random generator.

    Raises:
        PartitionError, ConfigError: the model cannot be cut as asked.
    """
    network = attach_critics(
        _build_model(config),
        config.example,
        num_outputs=config.num_outputs,
        groups=config.groups,
        critic=config.critic,
        critic_depth=config.critic_depth,
        split_at=config.split_at or PAPER_CUTS.get((config.model, config.groups)),
    )
    network.recipe = config
    return network


def possible_cuts(config: NetworkConfig) -> list[str]:
    """Names of the modules behind which the network can be cut, for `split_at`."""
    return [point.name for point in cut_places(_build_model(config), config.example)]


def _build_model(config: NetworkConfig) -> nn.Module:
    return MODELS[config.model](
        num_outputs=config.num_outputs, in_channels=config.in_channels, image_size=config.image_size
    )
