"""A small network whose blocks or whole forward a test writes, and the comparison of its groups with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import lctprune as lct

IMAGES = torch.randn(4, 3, 8, 8)
TARGETS = torch.tensor([0, 1, 2, 0])
Forward = Callable[[Any, Tensor], Any]


def conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


class Net(nn.Module):
    """Three blocks and a head, with a forward of the test's own."""

    def __init__(self, forward: Forward | None = None, **attributes: Any) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(4, 4), conv(4, 4)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.own_forward = forward
        for name, value in attributes.items():
            self.register_buffer(name, value) if isinstance(value, Tensor) else setattr(self, name, value)

    def plain(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.b(self.a(x))))

    def forward(self, x: Tensor) -> Any:
        return self.plain(x) if self.own_forward is None else self.own_forward(self, x)


class Block(nn.Module):
    """A block with a forward of the test's own."""

    def __init__(self, forward: Forward, **attributes: Any) -> None:
        super().__init__()
        self.layer = conv(4, 4)
        self.own_forward = forward
        for name, value in attributes.items():
            self.register_buffer(name, value) if isinstance(value, Tensor) else setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.own_forward(self, x)


def with_block(block: nn.Module) -> Net:
    model = Net()
    model.b = block
    return model


def attach(model: nn.Module, **settings: Any) -> lct.LocalCriticNetwork:
    if "split_at" not in settings:
        settings["groups"] = settings.get("groups", 2)
    return lct.attach_critics(model, IMAGES, num_outputs=3, **settings)


def check_groups_do_what_the_model_does(model: nn.Module, network: nn.Module) -> None:
    """Bit for bit in both modes, with the same random numbers; and its buffers after a step of training."""
    for training in (True, False):
        own, cut = copy.deepcopy(model).train(training), copy.deepcopy(network).train(training)
        torch.manual_seed(7)
        expected = own(IMAGES)
        torch.manual_seed(7)
        assert torch.equal(cut(IMAGES), expected)
        buffers = {name: tensor for group in cut.groups for name, tensor in group.named_buffers()}
        for name, buffer in own.named_buffers():
            assert name not in buffers or torch.equal(buffer, buffers[name]), name
