"""The parts that critics of feature maps are made of."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Permute(nn.Module):
    """Reorder the dimensions of a tensor."""

    def __init__(self, dims: list[int]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with its dimensions in the order `dims`."""
        return x.permute(self.dims)


class TailBlock(nn.Module):
    """A residual block of two 3x3 convolutions that may halve the map.

    With `depthwise`, each is a depthwise and a 1x1 convolution. The shortcut has no parameters and keeps nothing for
    the backward pass: average pooling, then channels of zeros (He et al. 2016, arXiv 1512.03385, option A), or the
    first channels only.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, depthwise: bool = False) -> None:
        super().__init__()
        convolution = separable_convolution if depthwise else normalized_convolution
        self.residual = nn.Sequential(
            *convolution(in_channels, out_channels, 3, stride),
            nn.ReLU(inplace=True),
            *convolution(out_channels, out_channels, 3),
        )
        self.pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
        self.more_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, in_channels, h, w] to [batch, out_channels, h / stride, w / stride], sides rounded up."""
        residual, shortcut = self.residual(x), self.pool(x)
        if self.more_channels > 0:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.more_channels))
        elif self.more_channels:  # the first ones: not every runtime pads by less than nothing
            shortcut = shortcut[:, : self.more_channels]
        return functional.relu(residual + shortcut, inplace=True)


def normalized_convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, groups: int = 1
) -> list[nn.Module]:
    """Make a convolution with batch normalisation in place of a bias."""
    padding = kernel // 2
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=padding, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels)]


def separable_convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Make a depthwise convolution and a 1x1 convolution, each with batch normalisation in place of a bias."""
    return [
        *normalized_convolution(in_channels, in_channels, kernel, stride, groups=in_channels),
        *normalized_convolution(in_channels, out_channels, 1),
    ]
