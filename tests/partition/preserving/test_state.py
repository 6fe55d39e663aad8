"""The user's model is the same before and after, to the bit, whether it is cut or refused; what it keeps is kept."""

from __future__ import annotations

import copy
import io
import random
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy
import pytest
import torch
from own_forward import IMAGES, Block, Net, attach, check_groups_do_what_the_model_does, conv, with_block
from torch import Tensor, nn

import lctprune as lct
from lctprune.errors import PartitionError
from lctprune.partition.cutting import possible_cut_points


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """All that attaching critics could change, in a form that compares."""
    buffer = io.BytesIO()
    attributes = {name: {**vars(module), "_modules": None} for name, module in model.named_modules()}
    torch.save(attributes, buffer)  # does not save proxies
    identities = {name: (id(tensor), tensor.requires_grad) for name, tensor in model.state_dict(keep_vars=True).items()}
    randomness = torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state())
    return buffer.getvalue(), identities, randomness


def plain_forwards() -> dict[str, tuple[Callable[[Any, Tensor], Any], dict[str, Any]]]:
    """Forwards of a whole network that keep something, with the attributes that they need."""

    def buffer(model: Net, x: Tensor) -> Tensor:
        if model.training:
            model.mean = 0.9 * model.mean + 0.1 * x.mean()
        return model.plain(x - model.mean)

    def tensor_counter(model: Net, x: Tensor) -> Tensor:
        model.n += 1
        return model.plain(x)

    def features(model: Net, x: Tensor) -> Tensor:
        model.kept = model.a(x)
        return model.head(model.c(model.b(model.kept)))

    def listed(model: Net, x: Tensor) -> Tensor:
        h = model.a(x)
        if model.training:
            model.kept.append(h.detach())
        return model.head(model.c(model.b(h)))

    def in_dictionary(model: Net, x: Tensor) -> Tensor:
        model.kept["h"] = (model.a(x).detach(), 1)
        return model.plain(x)

    def of_child(model: Net, x: Tensor) -> Tensor:
        model.b.kept = x.mean()
        return model.plain(x)

    return {
        "mean": (buffer, {"mean": torch.zeros(1)}),
        "n": (tensor_counter, {"n": torch.zeros(1)}),
        "count": (lambda model, x: (setattr(model, "count", model.count + 1), model.plain(x))[1], {"count": 0}),
        "kept": (features, {}),
        "kept in a list": (listed, {"kept": []}),
        "kept in a queue": (listed, {"kept": deque(maxlen=3)}),
        "kept in a dictionary": (in_dictionary, {"kept": {}}),
        "kept by a child": (of_child, {}),
    }


@pytest.mark.parametrize("name", plain_forwards())
def test_what_the_network_itself_keeps_is_refused_by_name(name: str) -> None:
    forward, attributes = plain_forwards()[name]
    model = Net(None, **attributes)
    before = state_of(model)
    model.own_forward = forward
    with pytest.raises(PartitionError, match=rf"assigns its attribute {name.split()[0]} in forward.*submodule"):
        attach(model)
    model.own_forward = None
    assert state_of(model) == before
    copy.deepcopy(model)


def keeping(name: str) -> Block:
    """A block that keeps something of its own."""

    def assigned(block: Any, x: Tensor) -> Tensor:
        if block.training:
            block.mean = 0.9 * block.mean + 0.1 * x.detach().mean((0, 2, 3))
        return block.layer(x - block.mean[:, None, None])

    def counted(block: Any, x: Tensor) -> Tensor:
        block.count += 1
        block.steps += 1
        block.kept.append(x.detach().mean())
        return block.layer(x)

    if name == "assigned":
        return Block(assigned, mean=torch.zeros(4))
    return Block(counted, count=0, steps=torch.zeros(1), kept=[])


@pytest.mark.parametrize("name", ["assigned", "counted"])
def test_what_a_submodule_keeps_is_kept(name: str) -> None:
    model = with_block(keeping(name))
    network = attach(model)
    check_groups_do_what_the_model_does(model, network)
    network.train()(IMAGES)
    if name == "assigned":
        assert model.b.mean.any()
    else:
        assert (model.b.count, model.b.steps.item(), len(model.b.kept)) == (1, 1, 1)
        assert type(model.b.kept[0]) is Tensor


def test_a_buffer_changed_in_place_is_changed_every_step() -> None:
    def moving(model: Net, x: Tensor) -> Tensor:
        h = model.a(x)
        if model.training:
            model.mean.mul_(0.9).add_(0.1 * h.detach().mean((0, 2, 3)))
        y = model.head(model.c(model.b(h - model.mean[:, None, None])))
        with torch.no_grad():
            model.n.add_(1)  # after the output
        return y

    model = Net(moving, mean=torch.zeros(4), n=torch.zeros(1))
    network = attach(model)
    assert not model.mean.any()
    check_groups_do_what_the_model_does(model, network)
    for _ in range(3):
        network.train()(IMAGES)
    assert model.n.item() == 3
    assert model.mean.any()


class Limited(nn.Conv2d):
    """Its weight is limited in every forward pass, through `.data`."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.1)
        return super().forward(x)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": Net,
    "a limited weight": lambda: with_block(Limited(4, 4, 1)),
    "old spectral norm": lambda: with_block(nn.utils.spectral_norm(nn.Conv2d(4, 4, 1))),
    "new spectral norm": lambda: with_block(nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))),
    "constants": lambda: Net(lambda model, x: model.plain(x + torch.tensor([[[[0.5]]]]))),
    "drawn numbers": lambda: with_block(Block(lambda block, x: block.layer(x * random.random()))),
    "mixed modes": lambda: _mixed(Net()),
}


def _mixed(model: Net) -> Net:
    model.b.eval()
    model.a.requires_grad_(False)
    return model


@pytest.mark.filterwarnings("ignore:the operation aten.renorm")
@pytest.mark.parametrize("settings", [{}, {"split_at": ["none"]}], ids=["cut", "refused"])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_changes_in_the_users_model(name: str, settings: dict[str, Any]) -> None:
    model = MODELS[name]()
    forward, model.own_forward = getattr(model, "own_forward", None), None  # functions cannot be saved
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    states = []
    for _ in range(2):
        functions = [(block, block.own_forward) for block in blocks]
        for block in blocks:
            block.own_forward = None
        states.append(state_of(model))
        for block, function in functions:
            block.own_forward = function
        if len(states) == 1:
            model.own_forward = forward
            with pytest.raises(PartitionError) if settings else nullcontext():
                _cut(model, settings)
            model.own_forward = None
    assert states[0] == states[1]


def _cut(model: nn.Module, settings: dict[str, Any]) -> None:
    with torch.random.fork_rng(devices=[]):  # new critics draw weights
        attach(model, **settings)
        possible_cut_points(model, IMAGES)


def test_an_interrupt_changes_nothing_either() -> None:
    calls = []

    def interrupted(model: Net, x: Tensor) -> Tensor:
        calls.append(model.training)
        model.count = len(calls)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return model.plain(x)

    model = Net(interrupted, count=0)
    mean = model.a[1].running_mean.clone()
    with pytest.raises(KeyboardInterrupt):
        attach(nn.Sequential(model, nn.Identity()))
    assert model.count == 0
    assert torch.equal(model.a[1].running_mean, mean)
    assert model.training


def test_a_lazy_layer_is_initialized() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), conv(4, 4), nn.Flatten(), nn.LazyLinear(3))
    attach(model)
    assert model[0].weight.shape == (4, 3, 3, 3)


def test_without_values_only_well_known_code_is_cut() -> None:
    with torch.device("meta"):
        known, own, images = (
            nn.Sequential(conv(3, 4), conv(4, 4), nn.Flatten(), nn.Linear(256, 3)),
            Net(),
            IMAGES.to("meta"),
        )
        network = lct.attach_critics(known, images, num_outputs=3, groups=2)
        with pytest.raises(PartitionError, match="Net is on the meta device"):
            lct.attach_critics(own, images, num_outputs=3, groups=2)
    assert all(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
