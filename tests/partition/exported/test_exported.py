"""Networks that torch.fx cannot trace: cut through torch.export's graph, or refused with a line that says why."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from equality import same
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.fx import Proxy

import lctprune as lct
from lctprune.errors import NetworkError, PartitionError


class Layers(nn.Module):
    """Three linear layers of 6 features, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))
        self.seen: list[int] = []
        self.calls = 0
        self.last: Tensor | None = None

    def run(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = nn.functional.dropout(layer(x).relu(), 0.2, self.training)
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):  # at which torch.fx gives up
            raise TypeError("a tensor")
        return self.run(x)


class ByLength(Layers):
    """A path by the length of a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[1] < 8 else x[:, :8]).mean(1)


class Patches(Layers):
    """A loop over the steps of a sequence, all of one length."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        h = torch.zeros_like(x[:, 0])
        for step in range(x.shape[1]):
            h = h + x[:, step] / (step + 1)
        return super().forward(self.norm(h))


class NoGradients(Layers):
    """Regions without gradients and without autocast."""

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError("a tensor")
        with torch.no_grad():
            x = self.layers[0](x).tanh()
        with torch.autocast(x.device.type, enabled=False):
            x = self.layers[1](x).tanh()
        return self.head(self.layers[2](x.detach() + x).relu())


FOLLOWED: dict[str, tuple[type[Layers], tuple[int, ...]]] = {
    "a check of the type": (Layers, (2, 6)),
    "a path by the length": (ByLength, (2, 5, 6)),
    "a loop over steps": (Patches, (2, 4, 6)),
    "regions without gradients": (NoGradients, (2, 6)),
}


def step(network: nn.Module, model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return the output, gradients and buffers of a step in training mode, from one seed."""
    model.zero_grad()
    torch.manual_seed(0)
    output = network.train()(x)
    output.square().sum().backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return output.detach(), gradients, {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize(("kind", "shape"), FOLLOWED.values(), ids=FOLLOWED)
def test_what_torch_fx_cannot_follow_is_cut_and_computes_the_same(kind: type[Layers], shape: tuple[int, ...]) -> None:
    model, x = kind(), torch.randn(5, *shape[1:])
    before, other = copy.deepcopy(model.state_dict()), copy.deepcopy(model)
    network = lct.attach_critics(model, torch.zeros(shape), num_outputs=3, groups=2)
    assert len(network.groups) == 2
    assert same(model.state_dict(), before)
    assert all(any(parameter is each for each in model.parameters()) for parameter in network.groups.parameters())
    assert network.main_state_dict().keys() <= before.keys()
    main = lct.LocalCriticNetwork([nn.Sequential(*network.groups)])
    expected, actual = step(other, other, x), step(main, model, x)
    assert torch.equal(expected[0], actual[0])
    assert same(expected[1], actual[1])
    assert same(expected[2], actual[2])
    with torch.no_grad():
        for count in (1, 2):
            assert torch.equal(other.eval()(x[:count]), main.eval()(x[:count]))


def test_sizes_of_another_path_are_refused() -> None:
    network = lct.attach_critics(ByLength(), torch.zeros(2, 5, 6), num_outputs=3, groups=2)
    assert network(torch.zeros(2, 7, 6)).shape == (2, 3)
    with pytest.raises(NetworkError, match=r"ByLength was traced .* \[batch, 1 to 7, 6\], and got \[2, 9, 6\]"):
        network(torch.zeros(2, 9, 6))


class ByValue(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.run(x) if x.mean() > 0 else self.run(-x)


class ByBatch(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[0] > 3 else 2 * x)


class Keeps(Layers):
    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


class Counts(Layers):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Lists(Layers):
    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.shape[1])
        return super().forward(x)


class Averages(Layers):
    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return super().forward(x) + self.mean.sum()


class AddsInPlace(Layers):
    def forward(self, x: Tensor) -> Tensor:
        self.mean[2:].add_(1)
        return super().forward(x)


class ByLen(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / len(x)


class HangsHook(Layers):
    def forward(self, x: Tensor) -> Tensor:
        h = super().forward(x)
        if h.requires_grad:
            h.register_hook(lambda gradient: 2 * gradient)
        return h


def with_hook(model: Layers) -> Layers:
    model.layers[1].register_forward_hook(lambda *_: None)
    return model


REFUSED: dict[str, tuple[Callable[[], Layers], str]] = {
    "values": (ByValue, "control flow"),
    "length of the batch": (ByLen, r"one batch size only.*not len\(x\)"),
    "batch size": (ByBatch, "number of samples in the batch"),
    "attribute kept": (Keeps, "assigns its attribute last in forward"),
    "counter": (Counts, "assigns its attribute calls in forward"),
    "list": (Lists, "assigns its attribute seen in forward"),
    "buffer assigned": (Averages, "assigns its attribute mean in forward"),
    "view of a buffer": (AddsInPlace, "buffer mean"),
    "hook on a gradient": (HangsHook, "hook on a gradient"),
    "hook on a layer": (lambda: with_hook(Layers()), r"hooks.* at layers\.1"),
}


@pytest.mark.parametrize(("make", "why"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_lost_is_refused_and_the_model_stays_as_it_was(make: Callable[[], Layers], why: str) -> None:
    model = make()
    weights = copy.deepcopy(dict(model.named_parameters()))
    with pytest.raises(PartitionError, match=why) as caught:
        lct.attach_critics(model, torch.zeros(2, 6), num_outputs=3, groups=2)
    assert "\n" not in str(caught.value)
    assert "by hand" in str(caught.value)
    assert same(dict(model.named_parameters()), weights)
    assert model.training
    held = [*vars(model).values(), *model.buffers(), *model.seen]
    assert not any(isinstance(each, FakeTensor | Proxy | torch.SymInt) for each in held)
    assert not [name for name in vars(model) if name.startswith("_tensor_constant")]
    model.eval()(torch.zeros(2, 6))
