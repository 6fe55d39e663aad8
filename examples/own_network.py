"""A network of one's own: by the name package.module:function, and as groups given by hand.

By name, from this folder:   lctprune train own_network:small --epochs 1
By hand, on random images:   python own_network.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lctprune as lct


def small(num_classes: int, in_channels: int = 3, width: int = 16) -> nn.Module:
    """Any function that takes `num_classes` (and `in_channels`, if it wants) and returns a traceable module."""

    def block(before: int, after: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())

    return nn.Sequential(
        block(in_channels, width),
        block(width, 2 * width),
        block(2 * width, 4 * width),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes)),
    )


class Router(nn.Module):
    """A group that no tracer can follow, as the branch that runs depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide, self.narrow = nn.Conv2d(8, 8, 5, padding=2), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.wide(h) if h.mean() > 0 else self.narrow(h)


def by_hand() -> lct.LocalCriticNetwork:
    """Two groups and the critic between them."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    critic = lct.make_critic("linear", (8, 16, 16), num_outputs=3)  # for the first group's output, without the batch
    return lct.LocalCriticNetwork([Router(), head], [critic])


if __name__ == "__main__":
    torch.manual_seed(0)
    network = by_hand()
    images, labels = torch.randn(12, 3, 16, 16), torch.arange(12) % 3
    losses = lct.local_critic_backward(network, images, labels)
    print("mean loss of each exit:", *(f"{loss.mean():.3f}" for loss in losses))

    cut = lct.attach_critics(small(3), images, num_outputs=3, groups=3)  # the function's network needs no hand
    print(f"{len(cut.groups)} groups; the first exit has {lct.count_parameters(cut.subnetwork(0))} parameters")
