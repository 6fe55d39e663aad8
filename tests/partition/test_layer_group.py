"""A layer group is a module like any other: copies, dtypes, state dicts; and it is the user's own parameters."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lctprune as lct
from lctprune.partition.attach import partition
from lctprune.partition.layer_group import LayerGroup

TOKENS = torch.randn(4, 6, 5)


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)
        self.gain = nn.Parameter(torch.rand(width))
        self.register_buffer("calls", torch.tensor([1.0]))
        self.register_buffer("shift", torch.randn(1, 1, width), persistent=False)
        self.plain = torch.randn(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x)).relu() * self.gain * self.calls + self.shift * self.plain


class TokenNet(nn.Module):
    """A class token, layers with direct parameters and all kinds of buffers, a constant, a head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(5, width)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.layers = nn.Sequential(Layer(width), Layer(width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:  # [batch, time, 5] -> [batch, 3]
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1)
        return self.head(self.layers(x * torch.tensor([1.5]))[:, 0])


def cut(model: nn.Module) -> nn.Sequential:
    parts = partition(model, TOKENS, groups=3)
    assert all(isinstance(part, LayerGroup) for part in parts)
    return nn.Sequential(*parts)


def names_of(parts: nn.Sequential) -> list[str]:
    return [name for part in parts for name in part.state_dict()]


def test_groups_have_the_models_names_and_tensors() -> None:
    model = TokenNet()
    parts = cut(model)
    assert sorted(names_of(parts)) == sorted(model.state_dict())
    own = model.state_dict(keep_vars=True)
    for part in parts:
        assert all(tensor is own[name] for name, tensor in part.state_dict(keep_vars=True).items())


def test_a_trained_group_is_the_trained_model() -> None:
    model = TokenNet()
    parts = cut(model)
    with torch.no_grad():
        for parameter in parts.parameters():
            parameter.mul_(1.1)
    assert torch.equal(parts(TOKENS), model(TOKENS))


def test_a_copy_is_on_its_own() -> None:
    model = TokenNet()
    parts = cut(model)
    copied = copy.deepcopy(parts)
    expected = parts(TOKENS)
    assert torch.equal(copied(TOKENS), expected)
    assert names_of(copied) == names_of(parts)
    assert not {id(each) for each in copied.parameters()} & {id(each) for each in parts.parameters()}
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(parts(TOKENS), expected)
    assert not torch.equal(copied(TOKENS), expected)


def test_another_dtype_reaches_every_tensor() -> None:
    parts = cut(TokenNet())
    expected = parts(TOKENS)
    converted = copy.deepcopy(parts).to(torch.float64)
    output = converted(TOKENS.double())
    assert output.dtype == torch.float64
    assert all(tensor.dtype == torch.float64 for tensor in [*converted.parameters(), *converted.buffers()])
    torch.testing.assert_close(output.float(), expected)


def test_another_device_reaches_every_tensor() -> None:
    parts = cut(TokenNet()).to("meta")
    assert parts(TOKENS.to("meta")).device.type == "meta"


def test_a_state_dict_goes_there_and_back() -> None:
    source, target = cut(TokenNet()), cut(TokenNet())
    assert not torch.equal(source(TOKENS), target(TOKENS))
    for part, other in zip(source, target, strict=True):
        other.load_state_dict(part.state_dict(), strict=True)
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)
    for part, other in zip(source.buffers(), target.buffers(), strict=True):
        other.copy_(part)  # those that no state dict has
    assert torch.equal(source(TOKENS), target(TOKENS))


def test_what_is_not_persistent_stays_so() -> None:
    parts = cut(TokenNet())
    buffers = [name for name, _ in parts.named_buffers()]
    assert any(name.endswith("shift") for name in buffers)
    assert any(name.endswith("plain") for name in buffers)
    assert not any(name.endswith(("shift", "plain")) or "constant" in name for name in names_of(parts))
    assert any(name.endswith("calls") for name in names_of(parts))


def test_each_group_has_but_what_it_uses() -> None:
    first, *_, last = cut(TokenNet())
    assert list(last.state_dict()).count("head.weight") == 1
    assert "embed.weight" not in last.state_dict()
    assert "head.weight" not in first.state_dict()
    assert "token" in first.state_dict()


def test_the_mode_reaches_inner_modules() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 5)), nn.Linear(5, 3))
    parts = nn.Sequential(*partition(model, TOKENS[:, 0], groups=3))
    parts.eval()
    assert not any(module.training for module in model.modules() if not list(module.children()))
    parts.train()
    assert all(module.training for module in parts.modules())


def test_a_frozen_layer_stays_in_its_mode() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 5), nn.Linear(5, 3))
    model[1].eval()
    parts = partition(model, TOKENS[:, 0], groups=2)
    assert all(part.training for part in parts)
    parts[0](TOKENS[:, 0])
    assert torch.equal(model[1].running_mean, torch.zeros(5))


def test_hooks_of_modules_still_run() -> None:
    model = TokenNet()
    seen = []
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    cut(model)(TOKENS)
    assert seen[-1] == (4, 3)


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
@pytest.mark.parametrize("exit", [0, 1, 2])
def test_an_exit_can_be_copied_and_exported(exit: int, tmp_path: Path) -> None:
    network = lct.attach_critics(TokenNet(), TOKENS, num_outputs=3, groups=3).eval()
    path = lct.export(network.subnetwork(exit), TOKENS, tmp_path / "exit.pt")
    loaded = torch.jit.load(path)
    torch.testing.assert_close(loaded(TOKENS), network.exits(TOKENS)[exit])
