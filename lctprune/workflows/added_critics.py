"""Choose further critics for a network: at which cut points, and how wide."""

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
from lctprune.partition.critic_sizes import usual_kind
from lctprune.partition.cut_points import MeasuredCutPoint
from lctprune.partition.cutting import all_cut_points

NARROW = 0.5  # width of the second critic at each cut point, as a fraction of the first one's
MOST_BETWEEN = 4  # cut points between two trained critics
LEAST_REST = 0.02  # of the network's FLOPs, behind a cut point
_T = TypeVar("_T")


class AddedCritic(NamedTuple):
    """A critic that is to be added.

    Attributes:
        cut: cut point at which it stands.
        kind: its kind.
        width: factor on its width.
        depth: its depth; None for the default.
        nearest: indices of the trained critics, by their distance from it in FLOPs.
        alike: indices of those trained critics whose input has the shape of its own.
        flops: FLOPs of its exit for one sample, as far as they are known.
    """

    cut: MeasuredCutPoint
    kind: str
    width: float
    depth: int | None
    nearest: tuple[int, ...]
    alike: tuple[int, ...]
    flops: int

    @property
    def origin(self) -> str:
        """Where it stands and how wide it is, for people."""
        return f"at {self.cut.name}" + ("" if self.width == 1 else f", {self.width:g} x as wide")


class _Size(NamedTuple):
    parameters: int
    flops: int


def critics_to_add(network: LocalCriticNetwork, example: Tensor) -> list[AddedCritic]:
    """List the critics that can be added to a network, from its input to its output.

    At each cut point there are at most two, one as wide as the nearest trained critic and one half as wide; none of
    them has the size of another one there, and none makes an exit that costs as much as the main network.

    Args:
        network: network with a recipe.
        example: input, [batch, ...].

    Raises:
        NetworkError: no critic can be added.
    """
    recipe = network.recipe
    assert recipe is not None
    every = all_cut_points(build_model(recipe), example, also=recipe.cuts or ())
    trained = [next(cut for cut in every if cut.node_name == name) for name in recipe.cuts or ()]
    end = every[-1].flops
    added = []
    for cut in _cut_points(every, trained):
        nearest = tuple(sorted(range(len(trained)), key=lambda k: abs(trained[k].flops - cut.flops)))
        alike = tuple(k for k in nearest if trained[k].shape == cut.shape)
        first = next(iter(nearest), None)
        depth, width = _setting(recipe.critic_depth, first), _setting(recipe.critic_width, first) or 1.0
        kind = usual_kind(_setting(recipe.critic_kinds, first) or recipe.critic, network.groups, cut.shape)
        known = {_size(recipe, cut, *_own_size(recipe, k)) for k, other in enumerate(trained) if other == cut}
        for each in (width, width * NARROW):
            size = _size(recipe, cut, kind, depth, each)
            if size is not None and size not in known and cut.flops + size.flops < end:
                known.add(size)
                added.append(AddedCritic(cut, kind, each, depth, nearest, alike, cut.flops + size.flops))
    if not added:
        raise NetworkError(
            f"{recipe.model} has no cut point for a further critic whose exit would cost less than the main network"
        )
    return added


def _cut_points(every: Sequence[MeasuredCutPoint], trained: Sequence[MeasuredCutPoint]) -> list[MeasuredCutPoint]:
    """Choose cut points: those of the trained critics, and some between them, evenly spread."""
    *inner, end = every
    taken = [cut.flops for cut in trained]
    free = [cut for cut in inner if cut.flops not in taken and end.flops - cut.flops >= LEAST_REST * end.flops]
    kept = dict.fromkeys(trained)
    for low, high in itertools.pairwise([0, *taken, end.flops]):
        between = [cut for cut in free if low <= cut.flops < high]
        kept |= dict.fromkeys(_spread(between, MOST_BETWEEN, low, high))
    return sorted(kept, key=lambda cut: cut.node)


def _spread(cuts: Sequence[MeasuredCutPoint], most: int, low: int, high: int) -> list[MeasuredCutPoint]:
    """Choose at most `most` cut points, as evenly spread between `low` and `high` FLOPs as possible."""
    if len(cuts) <= most:
        return list(cuts)
    aims = [low + (high - low) * (index + 1) / (most + 1) for index in range(most)]
    nearest = [min(cuts, key=lambda cut: abs(cut.flops - aim)) for aim in aims]
    return list(dict.fromkeys(nearest))


def _own_size(recipe: NetworkConfig, index: int) -> tuple[str, int | None, float]:
    """Return a trained critic's kind, depth and width."""
    kind = _setting(recipe.critic_kinds, index) or recipe.critic
    return kind, _setting(recipe.critic_depth, index), _setting(recipe.critic_width, index) or 1.0


def _setting(values: Sequence[_T] | None, index: int | None) -> _T | None:
    """Return a trained critic's value of a setting that may be one for all critics."""
    if not values:
        return None
    return values[0 if len(values) == 1 or index is None else index]


def _size(recipe: NetworkConfig, cut: MeasuredCutPoint, kind: str, depth: int | None, width: float) -> _Size | None:
    """Measure the size of a critic; None where it cannot be built."""
    try:
        with torch.random.fork_rng(devices=[]):
            critic = make_critic(
                kind,
                cut.shape,
                recipe.num_outputs,
                depth=depth,
                width=width,
                channels_last=cut.channels_last,
                pool=recipe.critic_pool,
            )
    except (NetworkError, ConfigError):  # no such critic takes that tensor, or its width cannot be changed
        return None
    return _Size(count_parameters(critic), count_flops(critic, torch.zeros(1, *cut.shape)))
