"""Built-in networks for images."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from lctprune.errors import ConfigError

if TYPE_CHECKING:
    from torchvision.models import resnet

# With fewer input channels, torch 2.14's backward pass of a strided 1x1 convolution in channels-last layout writes
# beyond its memory: for every map on processors with AVX2, for large maps (seen from 56 x 56 on) with AVX-512.
LEAST_WIDTH, LARGE_MAP, LEAST_WIDTH_OF_LARGE = 8, 50, 16
SMALL_IMAGE = 64  # up to this side a ResNet gets the 3x3 stem without pooling that is usual for CIFAR


def vgg_lct(*, num_outputs: int, in_channels: int, image_size: int, width: int = 64) -> nn.Module:
    """Build the network of the paper's Tables 4 and 5: four stages of 3x3 convolutions, then a linear layer.

    The stages have 1, 2, 4 and 8 times `width` channels; the paper's width is 64.
    """
    _require_width(width)
    stages: list[nn.Module] = []
    channels = in_channels
    for stage, convolutions in enumerate((2, 3, 3, 3)):
        layers: list[nn.Module] = []
        for position in range(convolutions):
            stride = 2 if stage > 0 and position == 0 else 1
            layers += [
                nn.Conv2d(channels, width * 2**stage, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width * 2**stage),
                nn.ReLU(inplace=True),
            ]
            channels = width * 2**stage
        stages.append(nn.Sequential(*layers))
    side = -(-image_size // 8)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, num_outputs))
    names = ("stage1", "stage2", "stage3", "stage4", "head")
    network = nn.Sequential()
    for name, module in zip(names, [*stages, classifier], strict=True):
        network.add_module(name, module)
    return network


def sized_resnet(name: str) -> Callable[..., nn.Module]:
    """Return a builder of torchvision's ResNet for images of any size and number of channels.

    ResNets that consist of basic blocks can have any width.
    """

    def network(*, num_outputs: int, in_channels: int, image_size: int, width: int = 64) -> nn.Module:
        model: resnet.ResNet = getattr(_resnet(), name)(num_classes=num_outputs)
        if width != 64:
            _set_width(model, width, least=least_resnet_width(image_size))
        if image_size <= SMALL_IMAGE:
            model.conv1 = _stem_convolution(in_channels, width, kernel_size=3, stride=1)
            model.maxpool = nn.Identity()
        elif in_channels != 3 or width != 64:
            model.conv1 = _stem_convolution(in_channels, width, kernel_size=7, stride=2)
        return cast(nn.Module, model)

    return network


def least_resnet_width(image_size: int) -> int:
    """Return the least width of a ResNet's first stage, in channels, for images of that side."""
    side = image_size if image_size <= SMALL_IMAGE else -(-image_size // 4)
    return LEAST_WIDTH if side <= LARGE_MAP else LEAST_WIDTH_OF_LARGE


def _set_width(model: resnet.ResNet, width: int, *, least: int) -> None:
    """Give a ResNet of basic blocks `width` channels in its first stage, and twice as many in each further stage."""
    _require_width(width)
    if width < least:
        raise ConfigError(
            f"width is {width}; a ResNet needs at least {least} channels for images of this size: with fewer, "
            "PyTorch's backward pass of a strided 1x1 convolution crashes on some processors"
        )
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    if not isinstance(stages[0][0], _resnet().BasicBlock):
        raise ConfigError("width applies only to ResNets of basic blocks: resnet18 and resnet34")
    model.bn1 = nn.BatchNorm2d(width)
    channels = width
    for index, stage in enumerate(stages):
        blocks = nn.Sequential()
        for position in range(len(stage)):
            blocks.append(_basic_block(channels, width * 2**index, stride=2 if index and position == 0 else 1))
            channels = width * 2**index
        setattr(model, f"layer{index + 1}", blocks)
    model.fc = nn.Linear(channels, model.fc.out_features)


def _require_width(width: int) -> None:
    if width < 1:
        raise ConfigError(f"width is {width}; it must be at least 1 channel")


def _basic_block(in_channels: int, channels: int, *, stride: int) -> resnet.BasicBlock:
    shortcut = None
    if stride != 1 or in_channels != channels:
        shortcut = nn.Sequential(_resnet().conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))
    block: resnet.BasicBlock = _resnet().BasicBlock(in_channels, channels, stride, shortcut)
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            _initialize(module)
    return block


def _stem_convolution(in_channels: int, width: int, *, kernel_size: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, width, kernel_size, stride, padding=kernel_size // 2, bias=False)
    _initialize(convolution)
    return convolution


def _initialize(convolution: nn.Conv2d) -> None:
    """Initialise a convolution as torchvision's ResNets do."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")


def _resnet() -> Any:
    return importlib.import_module("torchvision.models.resnet")  # here, because it takes long
