"""The graphs of both modes: what differs between training and evaluation differs in every group, and nothing else."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.ops import StochasticDepth

import lctprune as lct
from lctprune.errors import NetworkError, NetworkWarning, PartitionError
from lctprune.partition.cutting import partition_model
from lctprune.partition.symbolic.tracing import nodes_of, trace

IMAGES = torch.randn(4, 3, 8, 8)


def groups_of(model: nn.Module, example: Tensor, **settings: Any) -> list[nn.Module]:
    return partition_model(model, example, **settings).groups


def identity(_: nn.Module, x: Tensor) -> Tensor:
    return x


class Net(nn.Module):
    """Three convolutions with something in between, and a head."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor] = identity) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 5)
        self.between = between

    def features(self, x: Tensor) -> Tensor:
        x = self.between(self, self.a(x).sigmoid())
        x = self.between(self, self.b(x).sigmoid())
        return self.between(self, self.c(x).sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def chained(parts: list[nn.Module], x: Tensor) -> Tensor:
    for part in parts:
        x = part(x)
    return x


def check_same_in_both_modes(model: nn.Module, parts: list[nn.Module], x: Tensor) -> None:
    """Bit for bit, with the same random numbers."""
    for mode in (True, False):
        for module in (model, *parts):
            module.train(mode)
        torch.manual_seed(7)
        expected = model(x)
        torch.manual_seed(7)
        assert torch.equal(chained(parts, x), expected)


def varies(part: nn.Module, x: Tensor) -> bool:
    return any(not torch.equal(part(x), part(x)) for _ in range(5))


# --- what is random in training --------------------------------------------------------------------------------------


class Depth(Net):
    def __init__(self) -> None:
        super().__init__(lambda self, x: x + self.depth(2 * x))
        self.depth = StochasticDepth(0.5, "row")


def extra_code(module: nn.Module, x: Tensor) -> Tensor:
    if module.training:
        x = x + torch.randn_like(x)
    return x * 1.5


RANDOM: dict[str, Callable[[], Net]] = {
    "functional dropout": lambda: Net(lambda self, x: functional.dropout(x, 0.5, self.training)),
    "functional dropout2d": lambda: Net(lambda self, x: functional.dropout2d(x, 0.5, training=self.training)),
    "stochastic depth": Depth,
    "code for training": lambda: Net(extra_code),
}


@pytest.mark.parametrize("build", RANDOM.values(), ids=RANDOM)
def test_every_group_is_random_in_training_as_the_model_is(build: Callable[[], Net]) -> None:
    model = build()
    parts = groups_of(model, IMAGES, groups=3)
    check_same_in_both_modes(model, parts, IMAGES)
    x = IMAGES
    for part in parts:
        assert varies(part.train(), x)
        assert not varies(part.eval(), x)
        x = part(x)


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_at_cutting_does_not_matter(mode: bool) -> None:
    model = Net(lambda self, x: functional.dropout(x, 0.5, self.training)).train(mode)
    parts = groups_of(model, IMAGES, groups=3)
    assert all(part.training == mode for part in parts)
    check_same_in_both_modes(model, parts, IMAGES)


def test_dropout_that_is_always_on_stays_on() -> None:
    parts = groups_of(Net(lambda self, x: functional.dropout(x, 0.5)), IMAGES, groups=3)
    assert all(varies(part.eval(), IMAGES if part is parts[0] else torch.ones(4, 4, 6, 6)) for part in parts)


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_tiny", "swin_t"])
def test_stochastic_depth_of_torchvision_is_on(name: str) -> None:
    model = models.get_model(name, weights=None, num_classes=3)
    x = torch.randn(2, 3, 32, 32)
    check_same_in_both_modes(model, groups_of(model, x, groups=4), x)


def test_running_statistics_follow_the_models() -> None:
    model, again = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)) for _ in range(2))
    again.load_state_dict(model.state_dict())
    parts = groups_of(model, IMAGES, groups=2)
    assert torch.equal(chained(parts, IMAGES), again(IMAGES))
    assert torch.equal(model[1].running_mean, again[1].running_mean)
    assert model[1].num_batches_tracked == 1


# --- auxiliary outputs -----------------------------------------------------------------------------------------------


class Outputs(NamedTuple):
    main: Tensor
    auxiliary: Tensor | None


class Auxiliary(Net):
    """A second classifier, in training; `give` puts both into what is returned."""

    def __init__(self, give: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.side = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        self.give = give

    def forward(self, x: Tensor) -> Any:
        middle = self.b(self.a(x).relu())
        y = self.fc(self.c(middle.relu()).mean((2, 3)))
        return self.give(y, self.side(middle)) if self.training else y


@pytest.mark.parametrize("give", [lambda y, side: (y, side), lambda y, side: [y, side], Outputs])
def test_auxiliary_outputs_are_left_out_and_their_makers_named(give: Callable[[Tensor, Tensor], Any]) -> None:
    model = Auxiliary(give)
    with pytest.warns(NetworkWarning, match=r"Auxiliary's auxiliary outputs in training are left out \(side\)$"):
        parts = groups_of(model, IMAGES, groups=3)
    assert sorted(name for part in parts for name in part.state_dict()) == sorted(
        name for name in model.state_dict() if not name.startswith("side")
    )
    model.train()
    assert torch.equal(chained(parts, IMAGES), model(IMAGES)[0])
    model.eval()
    assert torch.equal(chained([part.eval() for part in parts], IMAGES), model(IMAGES))


def test_an_output_that_no_module_makes_is_left_out_too() -> None:
    class WithFeatures(Net):
        def forward(self, x: Tensor) -> Any:
            features = self.features(x)
            y = self.fc(features.mean((2, 3)))
            return (y, features) if self.training else y

    with pytest.warns(NetworkWarning, match="auxiliary outputs in training are left out$"):
        parts = groups_of(WithFeatures(), IMAGES, groups=3)
    assert chained(parts, IMAGES).shape == (4, 5)


def test_googlenets_heads_are_named() -> None:
    model = models.googlenet(weights=None, num_classes=3, init_weights=False)
    with pytest.warns(NetworkWarning, match=r"GoogLeNet's .* left out \(aux1, aux2\)$"):
        trace(model)


def test_a_dict_in_training_is_refused() -> None:
    model = Auxiliary(lambda y, side: {"out": y, "side": side})
    with pytest.raises(PartitionError, match="does not return one tensor in training"):
        groups_of(model, IMAGES, groups=2)


# --- inputs ----------------------------------------------------------------------------------------------------------


class OptionalMask(Net):
    def forward(self, x: Tensor, mask: Tensor | None = None, pair: tuple[float, float] = (1.0, 2.0)) -> Tensor:
        if mask is not None:
            x = x * mask
        return super().forward(x * pair[1])


class OptionalKeyword(Net):
    def forward(self, x: Tensor, *, mask: Tensor | None = None, mode: str = "plain") -> Tensor:
        if mask is not None:
            x = x * mask
        return super().forward(x if mode == "plain" else -x)


class TensorDefault(Net):
    def forward(self, x: Tensor, scale: Tensor = torch.tensor([2.0])) -> Tensor:  # noqa: B008
        return super().forward(x * scale)


class AllOptional(Net):
    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        assert x is not None
        return super().forward(x if mask is None else x * mask)


class Variadic(Net):
    def forward(self, *inputs: Tensor, **settings: float) -> Tensor:
        return super().forward(inputs[0] * settings.get("scale", 3.0))


@pytest.mark.parametrize("build", [OptionalMask, OptionalKeyword, TensorDefault, AllOptional, Variadic])
def test_optional_inputs_keep_their_defaults(build: type[Net]) -> None:
    model = build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = groups_of(model, IMAGES, groups=3)
    check_same_in_both_modes(model, parts, IMAGES)


# --- what tracing leaves behind, and what both graphs have in common -------------------------------------------------


class Constants(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x) * torch.tensor([2.0, 1.0, 3.0, 1.0]).view(1, 4, 1, 1))
        return self.fc((self.c(x) + torch.tensor(1.5)).mean((2, 3)))


def test_constants_leave_nothing_in_the_users_model() -> None:
    model = Constants()
    before, state = set(vars(model)), list(model.state_dict())
    parts = groups_of(model, IMAGES, groups=3)
    assert set(vars(model)) == before
    assert list(model.state_dict()) == state
    assert [name for part in parts for name in part.state_dict()] == state
    check_same_in_both_modes(model, parts, IMAGES)


def test_a_failure_leaves_nothing_either() -> None:
    model = Constants()
    before = set(vars(model))
    with pytest.raises(PartitionError, match="not in the model"):
        groups_of(model, IMAGES, split_at=["nothing"])
    assert set(vars(model)) == before


def test_buffers_are_not_frozen_into_the_graph() -> None:
    model = Net()
    model.register_buffer("scale", torch.tensor(2.0))
    model.between = lambda self, x: x * (self.scale + 1)
    parts = groups_of(model, IMAGES, split_at=["a"])
    model.scale.fill_(5.0)
    check_same_in_both_modes(model, parts, IMAGES)


def test_plain_networks_have_the_same_graph_in_both_modes() -> None:
    traced = trace(Net())
    assert list(traced.counterparts) == nodes_of(traced.evaluation)
    assert list(traced.counterparts.values()) == nodes_of(traced.training)


def test_what_is_done_in_training_only_has_no_counterpart() -> None:
    traced = trace(Net(extra_code))
    assert len(nodes_of(traced.training)) == len(nodes_of(traced.evaluation)) + 6  # randn_like and add, three times
    for node, counterpart in traced.counterparts.items():
        assert (node.op, str(node.target)) == (counterpart.op, str(counterpart.target))
    assert len(traced.counterparts) == len(nodes_of(traced.evaluation))


def test_a_shared_layer_is_refused_across_a_cut_whatever_its_name() -> None:
    model = Net()
    model.c.weight = model.b.weight
    with pytest.raises(PartitionError, match=r"'b'.*: the parameter [bc]\.weight is used on both sides"):
        groups_of(model, IMAGES, split_at=["b"])
    assert len(groups_of(model, IMAGES, split_at=["a"])) == 2


def test_a_network_by_hand_is_the_way_out() -> None:
    class Depends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x if x.sum() > 0 else -x).flatten(1)

    model = Depends()
    with pytest.raises(PartitionError, match=r"groups to lctprune\.LocalCriticNetwork by hand, in a Python program"):
        lct.attach_critics(model, IMAGES, num_outputs=64, groups=2)
    body, head = nn.Sequential(model.a), nn.Sequential(model.b, nn.Flatten(), nn.Linear(64, 5))
    network = lct.LocalCriticNetwork([body, head], [lct.make_critic("tail", (4, 6, 6), 5)])
    losses = lct.local_critic_backward(network, IMAGES, torch.tensor([0, 1, 2, 3]))
    assert all(loss.isfinite().all() for loss in losses)


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(()).item(), random.random, numpy.random.random], ids=["torch", "python", "numpy"]
)
def test_a_branch_drawn_in_python_is_refused(draw: Callable[[], float]) -> None:
    # it would be drawn once, when the network is traced, and stay
    model = Net(lambda self, x: x * 2 if self.training and draw() < 0.5 else x)
    with pytest.raises(PartitionError, match=r"draws random numbers in Python.*StochasticDepth"):
        groups_of(model, torch.zeros(2, 3, 8, 8), groups=2)


def test_one_group_gives_one_tensor_in_training_too() -> None:
    model = models.googlenet(num_classes=5, init_weights=False)
    with pytest.warns(NetworkWarning, match="aux1, aux2"):
        network = lct.attach_critics(model, torch.zeros(1, 3, 32, 32), num_outputs=5, groups=1)
    (losses,) = lct.local_critic_backward(network.train(), torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    assert losses.shape == (2,)


def test_a_model_that_does_not_run_on_the_example_is_named() -> None:
    with pytest.raises(NetworkError, match=r"Sequential does not run on an input of \[1, 2\] \(.*shapes"):
        groups_of(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), torch.zeros(1, 2), groups=2)
