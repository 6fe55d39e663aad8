"""Hooks on submodules are called, with tensors; on the network itself they are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from own_forward import IMAGES, TARGETS, Net, attach, check_groups_do_what_the_model_does, with_block
from torch import Tensor, nn

import lctprune as lct
from lctprune.errors import PartitionError

CHANGING: dict[str, Callable[[nn.Module], Any]] = {
    "output": lambda module: module.register_forward_hook(lambda _, __, output: output * 2),
    "input": lambda module: module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2,)),
}


@pytest.mark.parametrize("where", ["b", "b.0"])
@pytest.mark.parametrize("register", CHANGING.values(), ids=CHANGING)
def test_a_hook_that_changes_something_does_so_in_groups(register: Callable[[nn.Module], Any], where: str) -> None:
    model = Net()
    plain = model.eval()(IMAGES)
    register(model.get_submodule(where))
    network = attach(model)
    check_groups_do_what_the_model_does(model, network)
    assert not torch.equal(network.eval()(IMAGES), plain)


@pytest.mark.parametrize("where", ["b", "b.0"])
def test_a_hook_that_collects_features_collects_tensors(where: str) -> None:
    collected: list[Any] = []
    model = Net()
    model.get_submodule(where).register_forward_hook(lambda _, __, output: collected.append(output))
    network = attach(model)
    assert all(type(each) is Tensor for each in collected)
    collected.clear()
    network(IMAGES)
    assert [each.shape for each in collected] == [(4, 4, 8, 8)]


@pytest.mark.parametrize("where", ["b", "b.0"])
@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_a_backward_hook_is_called_and_export_does_without(kind: str, where: str, tmp_path: Any) -> None:
    called = []
    model = Net()
    getattr(model.get_submodule(where), kind)(lambda *_: called.append(where))
    network = attach(model, split_at=["a.1" if where == "b" else "a"])
    called.clear()
    network.train()
    network.groups[1](network.groups[0](IMAGES)).sum().backward()
    assert called == [where]
    assert lct.export(network.subnetwork(1), IMAGES, tmp_path / "e.pt").exists()


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_a_hook_on_the_network_itself_is_refused(kind: str) -> None:
    model = Net()
    getattr(model, f"register_{kind}")(lambda *_: None)
    with pytest.raises(
        PartitionError, match=rf"Net has {kind[:-5].replace('full_', '').replace('_', ' ')} hooks of its"
    ):
        attach(model)


class Weighted(nn.Module):
    """A layer of the user's own, which torch.fx would trace into."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4, 1, 1)), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, self.bias)


@pytest.mark.parametrize("layer", [Weighted, lambda: nn.Conv2d(4, 4, 1)], ids=["own", "conv"])
@pytest.mark.parametrize(
    "norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm]
)
def test_norms_of_weights(norm: Callable[[nn.Module], nn.Module], layer: Callable[[], nn.Module]) -> None:
    model = with_block(norm(layer()))
    check_groups_do_what_the_model_does(model, attach(model))


def test_a_spectral_norm_of_the_network_itself_is_refused() -> None:
    model = Net()
    model.weight = nn.Parameter(torch.randn(3, 3))
    with pytest.raises(PartitionError, match="forward pre hooks of its own"):
        attach(nn.utils.spectral_norm(model))


def test_a_cut_inside_a_module_with_hooks_is_refused_with_the_reason() -> None:
    model = Net()
    model.b.register_forward_hook(lambda *_: None)
    with pytest.raises(PartitionError, match=r"'b\.0', which is inside b, which is kept whole \(it has hooks\)"):
        attach(model, split_at=["b.0"])


def test_a_backward_hook_is_called_in_a_step_of_training() -> None:
    called = []
    model = Net()
    model.c.register_full_backward_hook(lambda *_: called.append(1))
    network = attach(model, split_at=["a"])
    called.clear()
    lct.local_critic_backward(network.train(), IMAGES, TARGETS)
    assert called == [1]
