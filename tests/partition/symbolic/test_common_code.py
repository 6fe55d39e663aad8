"""Code as people write it: einops, torchvision.ops, modules made in forward, and Python that asks for shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import einops
import pytest
import torch
from einops import rearrange
from einops.layers.torch import Rearrange, Reduce
from own_forward import IMAGES, TARGETS, Block, Net, attach, check_groups_do_what_the_model_does, with_block
from torch import Tensor, fx, nn
from torch.nn import functional
from torchvision import ops

import lctprune as lct
from lctprune.errors import NetworkError, PartitionError
from lctprune.partition.choosing_tracer import trace_network
from lctprune.partition.preserving.guarding import unchanged


def packed(model: Net, x: Tensor) -> Tensor:
    both, shapes = einops.pack([x, x], "batch * h w")
    first, second = einops.unpack(both, shapes, "batch * h w")
    return model.plain(first + second)


def size_by_size(model: Net, x: Tensor) -> Tensor:
    batch, channels, height, width = x.size()
    assert channels == 3
    assert height % 4 == 0, "wrong shape"
    if x.dtype != torch.float32 or x.dim() != 4:
        x = x.float()
    count = len(x)
    x = x + torch.zeros(batch, 1, 1, 1) + torch.arange(width, device=x.device, dtype=x.dtype)
    for index in range(x.shape[1]):
        x = x + index * torch.ones(x.shape[0], 1, height, 1)
    x = model.c(model.b(model.a(x)))
    side = int(math.sqrt(x.shape[1]))
    return model.head(x.view(count, side, side, height, width).flatten(1, 2))


def chunks(model: Net, x: Tensor) -> Tensor:
    parts = list(model.a(x).chunk(2, 1))
    parts.extend(part.relu() for part in parts[:1])
    first, second, *rest = map(lambda part: part * 2, parts)  # noqa: C417
    return model.head(model.c(model.b(torch.cat([first, rest[0]], 1) + torch.cat([second, second], 1))))


def over_layers(model: Net, x: Tensor, *further: Tensor, **settings: Any) -> Tensor:
    for layer in (model.a, model.b, model.c):
        x = layer(x, *further, **settings)
    return model.head(x)


def regions(model: Net, x: Tensor) -> Tensor:
    h = model.a(x)
    boxes = torch.cat([torch.arange(len(x))[:, None].to(h), torch.zeros(len(x), 2), torch.ones(len(x), 2) * 4], 1)
    return model.head(model.c(model.b(ops.roi_align(h, boxes, 4))))


ROOTS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "rearrange": lambda model, x: model.plain(rearrange(x, "b c h w -> b c w h")),
    "einops.reduce": lambda model, x: model.plain(x - einops.reduce(x, "b c h w -> b c 1 1", "mean")),
    "einops.einsum": lambda model, x: model.plain(einops.einsum(x, x, "b c h w, b c h w -> b c h w")),
    "pack": packed,
    "shapes": size_by_size,
    "chunks": chunks,
    "loops": over_layers,
    "roi_align": regions,
    "made in forward": lambda model, x: model.head(model.c(nn.ReLU()(model.b(nn.GELU()(model.a(x)))))),
    "dropout of the mode": lambda model, x: model.plain(functional.dropout(x, 0.5, model.training)),
}


@pytest.mark.filterwarnings("ignore:the operation torchvision.roi_align")
@pytest.mark.parametrize("forward", ROOTS.values(), ids=ROOTS)
def test_code_of_the_network_itself(forward: Callable[[Net, Tensor], Tensor]) -> None:
    model = Net(forward)
    check_groups_do_what_the_model_does(model, attach(model))


def fails_on_proxies(block: Any, x: Tensor) -> Tensor:
    return block.layer(x * 2 if isinstance(x, Tensor) else x)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "values of a tensor": lambda: Block(lambda block, x: block.layer(x * 2 if x.mean() > 0 else x)),
    "sample by sample": lambda: Block(lambda block, x: torch.cat([block.layer(each[None]) for each in x])),
    "isinstance": lambda: Block(fails_on_proxies),
    "layers of einops": lambda: nn.Sequential(Rearrange("b c h w -> b h w c"), Reduce("b h w c -> b c h w", "max")),
    "torchvision.ops": lambda: nn.Sequential(
        ops.SqueezeExcitation(4, 2), ops.Permute([0, 2, 3, 1]), ops.MLP(4, [4]), ops.Permute([0, 3, 1, 2])
    ),
    "random layers": lambda: nn.Sequential(ops.StochasticDepth(0.5, "row"), ops.DropBlock2d(0.5, 3)),
}


@pytest.mark.parametrize("build", BLOCKS.values(), ids=BLOCKS)
def test_code_of_a_submodule(build: Callable[[], nn.Module]) -> None:
    model = with_block(build())
    check_groups_do_what_the_model_does(model, attach(model))


def test_a_value_that_the_code_asked_for_is_guarded() -> None:
    network = attach(Net(size_by_size))
    with pytest.raises(NetworkError, match=r"cut for inputs for which its code computes True, and .* computes False"):
        network(torch.zeros(2, 3, 6, 8))


def test_code_that_depends_on_the_batch_size_or_on_values_is_refused_with_its_line() -> None:
    def of_values(model: Net, x: Tensor) -> Tensor:
        return model.plain(-x if x.mean() > 0 else x)

    def of_batch(model: Net, x: Tensor) -> Tensor:
        return model.plain(-x if x.shape[0] > 3 else x)

    line = of_values.__code__.co_firstlineno + 1
    match = rf"values of a tensor.* on line {line} of {__file__}, in of_values; .*torch\.fx\.wrap.*submodule"
    with pytest.raises(PartitionError, match=match):
        attach(Net(of_values))
    with pytest.raises(PartitionError, match="number of samples in the batch"):
        attach(Net(of_batch))


def test_a_layer_with_weights_made_in_forward_is_named() -> None:
    with pytest.raises(PartitionError, match=r"calls a Linear that is not one of its submodules.*__init__"):
        attach(Net(lambda model, x: nn.Linear(3, 3)(model.plain(x))))


def by_sign(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


@fx.wrap
def wrapped_by_sign(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def test_the_remedy_works() -> None:
    with pytest.raises(PartitionError, match=r"torch\.fx\.wrap"):
        attach(Net(lambda model, x: model.head(model.c(by_sign(model.b(model.a(x)))))))
    model = Net(lambda model, x: model.head(model.c(wrapped_by_sign(model.b(model.a(x))))))
    check_groups_do_what_the_model_does(model, attach(model))


def test_torch_fx_is_afterwards_what_it_was() -> None:
    names = (rearrange, einops.rearrange, ops.roi_align, torch.zeros, len, nn.Module.__call__)
    apply, enter = torch.autograd.Function.__dict__["apply"], torch.autocast.__enter__
    attach(Net(ROOTS["rearrange"]))
    assert (rearrange, einops.rearrange, ops.roi_align, torch.zeros, len, nn.Module.__call__) == names
    assert torch.autograd.Function.__dict__["apply"] is apply
    assert torch.autocast.__enter__ is enter
    with pytest.raises(Exception, match="Proxy"):
        fx.symbolic_trace(Net(ROOTS["rearrange"]))


def test_a_submodule_that_holds_most_and_is_kept_whole_is_named() -> None:
    inner = Net(lambda model, x: model.plain(-x if x.mean() > 0 else x))
    model = nn.Sequential(inner, nn.Linear(3, 3), nn.Linear(3, 3))
    named = "0 holds most of Sequential, and no cut point is inside: .*values"
    with pytest.warns(lct.NetworkWarning, match=named), unchanged(model) as snapshot:
        assert trace_network(model, IMAGES, snapshot=snapshot).whole.keys() == {"0"}


def test_groups_train_after_all_that() -> None:
    network = attach(Net(size_by_size))
    losses = lct.local_critic_backward(network.train(), IMAGES, TARGETS)
    assert all(loss.isfinite().all() for loss in losses)
