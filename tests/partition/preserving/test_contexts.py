"""Contexts that a network's own code sets, no_grad and autocast, hold in its groups; so do its own gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from own_forward import IMAGES, TARGETS, Block, Net, attach, check_groups_do_what_the_model_does, with_block
from torch import Tensor, nn
from torch.nn import functional

import lctprune as lct
from lctprune.errors import PartitionError


def no_grad_block(model: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = model.a(x)
    return model.head(model.c(model.b(h)))


def set_grad_enabled(model: Net, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        h = model.a(x)
    return model.head(model.c(model.b(h)))


def by_statement(model: Net, x: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    h = model.a(x)
    torch.set_grad_enabled(before)
    return model.head(model.c(model.b(h)))


def inference_mode(model: Net, x: Tensor) -> Tensor:
    with torch.inference_mode():
        h = model.a(x)
    return model.head(model.c(model.b(h.clone())))


def enabled_again(model: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = model.a(x)
        with torch.enable_grad():
            h = model.b(h)
    return model.head(model.c(h))


@torch.no_grad()
def extracted(model: Net, x: Tensor) -> Tensor:
    return model.a(x)


def decorated(model: Net, x: Tensor) -> Tensor:
    return model.head(model.c(model.b(extracted(model, x))))


def in_training_only(model: Net, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(not model.training):
        h = model.a(x)
    return model.head(model.c(model.b(h)))


def detached(model: Net, x: Tensor) -> Tensor:
    return model.head(model.c(model.b(model.a(x).detach())))


def no_gradients(model: nn.Module) -> set[str]:
    """Names of the parameters that backpropagation through the model itself gives no gradient."""
    model.train().zero_grad(set_to_none=True)
    functional.cross_entropy(model(IMAGES), TARGETS).backward()
    names = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    model.zero_grad(set_to_none=True)
    return names


FORWARDS = [
    no_grad_block,
    set_grad_enabled,
    by_statement,
    inference_mode,
    enabled_again,
    decorated,
    in_training_only,
    detached,
]


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda each: each.__name__)
def test_what_gets_no_gradient_in_the_model_gets_none_in_groups(forward: Any) -> None:
    model = Net(forward)
    network = attach(model, split_at=["a.0", "b"])
    check_groups_do_what_the_model_does(model, network)
    expected = no_gradients(model)
    assert expected
    lct.local_critic_backward(network.train(), IMAGES, TARGETS)
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == expected
    assert torch.is_grad_enabled()


def test_a_block_without_gradients_inside_a_submodule() -> None:
    def frozen(block: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            return block.layer(x)

    network = attach(model := with_block(Block(frozen)), split_at=["a"])
    expected = no_gradients(model)
    assert {name.split(".")[0] for name in expected} == {"a", "b"}
    lct.local_critic_backward(network.train(), IMAGES, TARGETS)
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == expected


def test_the_callers_own_context_does_not_matter() -> None:
    model = Net()
    with torch.no_grad():
        network = attach(model)
    lct.local_critic_backward(network.train(), IMAGES, TARGETS)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_failing_group_leaves_gradients_on() -> None:
    network = attach(Net(no_grad_block), split_at=["b"])
    with pytest.raises(RuntimeError):
        network.groups[0](torch.zeros(1, 7, 8, 8))
    assert torch.is_grad_enabled()


def single_precision(model: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        h = model.b(model.a(x).float())
    return model.head(model.c(h))


def reduced_precision(model: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = model.b(model.a(x))
    return model.head(model.c(h.float()))


@pytest.mark.parametrize("forward", [single_precision, reduced_precision])
def test_autocast_of_the_networks_own(forward: Any) -> None:
    model = Net(forward)
    network = attach(model, split_at=["float_1"])
    check_groups_do_what_the_model_does(model, network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network.eval()(IMAGES), model.eval()(IMAGES))


def test_a_tensor_of_reduced_precision_is_no_cut_point() -> None:
    with pytest.raises(PartitionError, match="cannot cut at 'b'"):
        attach(Net(reduced_precision), split_at=["b"])


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


reverse = Reversed.apply


@pytest.mark.parametrize("apply", [lambda x: Reversed.apply(x), lambda x: reverse(x)], ids=["class", "alias"])
def test_a_custom_gradient_is_kept(apply: Any, tmp_path: Any) -> None:
    model = Net(lambda self, x: self.head(self.c(apply(self.b(self.a(x))))))
    network = attach(model, split_at=["a"])
    functional.cross_entropy(model.eval()(IMAGES), TARGETS).backward()
    expected = {name: parameter.grad for name, parameter in model.b.named_parameters()}
    model.zero_grad(set_to_none=True)
    lct.local_critic_backward(network.eval(), IMAGES, TARGETS)
    for name, parameter in model.b.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])
    assert lct.export(network.subnetwork(1), IMAGES, tmp_path / "e.pt").exists()
    assert torch.autograd.Function.apply.__self__ is torch.autograd.Function


def test_a_gradient_hook_on_a_tensor_is_called() -> None:
    def doubled(model: Net, x: Tensor) -> Tensor:
        h = model.b(model.a(x))
        if model.training:
            h.register_hook(lambda gradient: gradient * 0)
        return model.head(model.c(h))

    network = attach(model := Net(doubled), split_at=["a"])
    lct.local_critic_backward(network.train(), IMAGES, TARGETS)
    assert not model.b[0].weight.grad.any()
    assert model.c[0].weight.grad.any()
