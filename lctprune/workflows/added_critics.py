"""Where a network with critics can be given further ones, and how wide they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lctprune.config.network import NetworkConfig
from lctprune.critics import make_critic
from lctprune.errors import ConfigError, NetworkError
from lctprune.measure.costs import count_flops, count_parameters
from lctprune.models.build import build_model
from lctprune.network import LocalCriticNetwork
from lctprune.partition.attach import all_places
from lctprune.partition.cut_points import CutPoint

NARROW = 0.5  # width of the second critic at each place, as a share of the first one's
MOST_BETWEEN = 4  # places between two trained critics
LEAST_REST = 0.02  # of the network's FLOPs, behind a place
_T = TypeVar("_T")


class Head(NamedTuple):
    """A critic that is to be added."""

    cut: CutPoint
    width: float
    depth: int | None
    nearest: tuple[int, ...]  # the trained critics, by how far they stand from it in FLOPs
    alike: tuple[int, ...]  # those of them that see a tensor of the same shape

    @property
    def said(self) -> str:
        """Where it stands, for people."""
        return f"at {self.cut.name}" + ("" if self.width == 1 else f", {self.width:g} x as wide")


class _Size(NamedTuple):
    parameters: int
    flops: int


def heads_to_add(network: LocalCriticNetwork, example: Tensor) -> list[Head]:
    """The critics that a network can be given beside those that it has, in its order.

    At each place there are at most two, one as wide as the nearest trained critic and one half as wide; none of them
    has the size of another one there, and none makes an exit that costs as much as the main network.

    Raises:
        NetworkError: there is no place for one.
    """
    recipe = network.recipe
    assert recipe is not None
    every = all_places(build_model(recipe), example, also=recipe.cuts or ())
    trained = [next(place for place in every if place.node_name == name) for name in recipe.cuts or ()]
    end = every[-1].flops
    heads = []
    for place in _places(every, trained):
        nearest = tuple(sorted(range(len(trained)), key=lambda k: abs(trained[k].flops - place.flops)))
        alike = tuple(k for k in nearest if trained[k].shape == place.shape)
        first = next(iter(nearest), None)
        depth, width = _of_critic(recipe.critic_depth, first), _of_critic(recipe.critic_width, first) or 1.0
        here = [k for k, other in enumerate(trained) if other == place]
        known = {
            _size(recipe, place, _of_critic(recipe.critic_depth, k), _of_critic(recipe.critic_width, k) or 1.0)
            for k in here
        }
        for each in (width, width * NARROW):
            size = _size(recipe, place, depth, each)
            if size is not None and size not in known and place.flops + size.flops < end:
                known.add(size)
                heads.append(Head(place, each, depth, nearest, alike))
    if not heads:
        raise NetworkError(
            f"{recipe.model} has no place for a further {recipe.critic!r} critic whose exit would cost less than the "
            "main network"
        )
    return heads


def _places(every: Sequence[CutPoint], trained: Sequence[CutPoint]) -> list[CutPoint]:
    """Those of the trained critics, and the most even of those between."""
    *inner, end = every
    taken = [place.flops for place in trained]
    free = [place for place in inner if place.flops not in taken and end.flops - place.flops >= LEAST_REST * end.flops]
    kept = dict.fromkeys(trained)
    for low, high in itertools.pairwise([0, *taken, end.flops]):
        between = [place for place in free if low <= place.flops < high]
        kept |= dict.fromkeys(_spread(between, MOST_BETWEEN, low, high))
    return sorted(kept, key=lambda place: place.node)


def _spread(places: Sequence[CutPoint], most: int, low: int, high: int) -> list[CutPoint]:
    """At most so many places, as evenly spread over the FLOPs between two as can be."""
    if len(places) <= most:
        return list(places)
    aims = [low + (high - low) * (index + 1) / (most + 1) for index in range(most)]
    nearest = [min(places, key=lambda place: abs(place.flops - aim)) for aim in aims]
    return list(dict.fromkeys(nearest))


def _of_critic(values: Sequence[_T] | None, index: int | None) -> _T | None:
    """What a trained critic has of a setting that may be one for all."""
    if not values:
        return None
    return values[0 if len(values) == 1 or index is None else index]


def _size(recipe: NetworkConfig, cut: CutPoint, depth: int | None, width: float) -> _Size | None:
    """Of a critic; None where it cannot be."""
    try:
        with torch.random.fork_rng(devices=[]):
            critic = make_critic(
                recipe.critic,
                cut.shape,
                recipe.num_outputs,
                depth=depth,
                width=width,
                channels_last=cut.channels_last,
                pool=recipe.critic_pool,
            )
    except (NetworkError, ConfigError):  # no such critic behind that tensor, or none of another width
        return None
    return _Size(count_parameters(critic), count_flops(critic, torch.zeros(1, *cut.shape)))
