"""A dense front from one run: critics at the places where no critic stands yet, and narrower ones, trained on the main
network as it is.

All of them learn in one pass through the frozen main network, each from its own losses, and each starts from the
nearest trained critic of equal shape.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lctprune.costs import count_parameters, group_costs
from lctprune.critics import make_critic
from lctprune.cut_points import CutPoint
from lctprune.errors import NetworkError, RunError
from lctprune.family import DENSE, origin_record
from lctprune.job import Begun
from lctprune.models import NetworkConfig, build_model, build_network
from lctprune.network import LocalCriticNetwork
from lctprune.partition import all_places
from lctprune.runs import Run, load_network
from lctprune.train_config import TrainConfig
from lctprune.training import open_run, train_steps

NARROW = 0.5  # width of the second critic at each place, as a share of the first one's
MOST_BETWEEN = 4  # places between two trained critics
LEAST_REST = 0.02  # of the network's FLOPs, behind a place: with less, a critic would be the main network once more
TRAINING_SHARE = 0.2  # of the run's own training, in FLOPs, that the added critics take at most by default
_T = TypeVar("_T")


class Head(NamedTuple):
    """A critic that is to be added."""

    cut: CutPoint
    width: float
    depth: int | None
    nearest: int | None  # the trained critic next to it


def densify(run: Run, *, epochs: int | None = None, resume: bool = False) -> Run:
    """Add critics to a trained run: at the places where it has none, and narrower ones at all.

    The main network and the trained critics stay as they are. What is added stands in a run of its own, `dense/` below
    the run, and among its candidates.

    Args:
        run: trained to its end.
        epochs: passes over the training split; by default as many as fit into a fifth of the run's training, in FLOPs.
        resume: continue from the last whole epoch.

    Raises:
        NetworkError: there is no place for a further critic.
        RunError: critics were added already, or the run is not finished or cannot be loaded.
    """
    begun = begin_dense(run, epochs=epochs, resume=resume)
    assert begun.run is not None
    for _ in train_steps(*begun):
        pass
    return begun.run


def begin_dense(run: Run, *, epochs: int | None = None, resume: bool = False) -> Begun:
    """What `train_steps` takes to add critics. See `densify`."""
    if run.epochs_done < run.config["training"]["epochs"]:
        raise RunError(f"{run.path} is not trained to its end; go on with lctprune train --resume --out {run.path}")
    network, data, training = load_network(run), run.load_data(), TrainConfig(**run.config["training"])
    recipe = network.recipe
    assert recipe is not None  # or the run could not have been loaded
    if recipe.exit is not None:
        raise NetworkError(f"{run.path} is one exit alone; give the run that it was taken from")
    heads = heads_to_add(network, data.example)
    torch.manual_seed(training.seed)
    dense = build_network(_recipe(recipe, heads, run))
    _take_weights(dense, network, heads)
    if epochs is None:
        epochs = (
            Run(run.path / DENSE).config["training"]["epochs"]
            if resume
            else _epochs(network, dense, data.example, training)
        )
    config = dataclasses.replace(
        training,
        epochs=epochs,
        freeze_main=True,
        method="local-critic",
        matching=0.0,
        critic_period=1,
        diagnostics=False,
    )
    origin = origin_record(run, [_said(head) for head in heads])
    return Begun(dense, data, open_run(dense, data, config, run_dir=run.path / DENSE, resume=resume, origin=origin))


def heads_to_add(network: LocalCriticNetwork, example: Tensor) -> list[Head]:
    """The critics that a network can be given beside those that it has, in its order.

    Raises:
        NetworkError: there is no place for one.
    """
    recipe = network.recipe
    assert recipe is not None
    heads = []
    for cut, nearest, is_trained in _places(network, recipe, example):
        width, depth = _of_critic(recipe.critic_width, nearest) or 1.0, _of_critic(recipe.critic_depth, nearest)
        widths = [width * NARROW] if is_trained else [width, width * NARROW]
        sizes = {width: _size(recipe, cut, width, depth), **{each: _size(recipe, cut, each, depth) for each in widths}}
        heads += [
            Head(cut, each, depth, nearest)
            for each in widths
            if each == width or (sizes[each] is not None and sizes[each] != sizes[width])
        ]
    if not heads:
        raise NetworkError(f"{recipe.model} has no place for a further critic, where one tensor alone is alive")
    return heads


def _places(
    network: LocalCriticNetwork, recipe: NetworkConfig, example: Tensor
) -> list[tuple[CutPoint, int | None, bool]]:
    """Where critics can stand, the trained critic nearest in FLOPs, and whether it stands just there."""
    every = all_places(build_model(recipe), example, also=recipe.cuts or ())
    *inner, end = every
    trained = [place for place in inner if place.node_name in (recipe.cuts or ())]
    flops = [place.flops for place in trained]
    free = [place for place in inner if place.flops not in flops and end.flops - place.flops >= LEAST_REST * end.flops]
    edges = [0, *flops, end.flops]
    kept = list(trained)
    for low, high in itertools.pairwise(edges):
        kept += _spread([place for place in free if low <= place.flops < high], MOST_BETWEEN, low, high)
    kept.sort(key=lambda place: place.node)
    return [
        (place, min(range(len(flops)), key=lambda k: abs(flops[k] - place.flops)) if flops else None, place in trained)
        for place in kept
    ]


def _spread(places: Sequence[CutPoint], most: int, low: int, high: int) -> list[CutPoint]:
    """At most so many places, as evenly spread over the FLOPs between two as can be."""
    if len(places) <= most:
        return list(places)
    aims = [low + (high - low) * (index + 1) / (most + 1) for index in range(most)]
    nearest = [min(places, key=lambda place: abs(place.flops - aim)) for aim in aims]
    return list(dict.fromkeys(nearest))


def _of_critic(values: Sequence[_T] | None, nearest: int | None) -> _T | None:
    """What the nearest trained critic has of a setting that may be one for all."""
    if not values:
        return None
    return values[0 if len(values) == 1 or nearest is None else nearest]


def _size(recipe: NetworkConfig, cut: CutPoint, width: float, depth: int | None) -> int | None:
    """Parameters of a critic; None where it cannot be."""
    try:
        with torch.random.fork_rng(devices=[]):
            critic = make_critic(
                recipe.critic, cut.shape, recipe.num_outputs, depth=depth, width=width, channels_last=cut.channels_last
            )
            return count_parameters(critic)
    except NetworkError:
        return None


def _recipe(recipe: NetworkConfig, heads: Sequence[Head], run: Run) -> NetworkConfig:
    """Of a network whose critics are the heads."""
    depths = [head.depth for head in heads]
    return dataclasses.replace(
        recipe,
        groups=len(heads) + 1,
        split_at=None,
        cuts=tuple(head.cut.node_name for head in heads),
        critic_width=tuple(head.width for head in heads),
        critic_depth=None if None in depths else tuple(depth for depth in depths if depth is not None),
        weights=str(run.path),
    )


def _take_weights(dense: LocalCriticNetwork, network: LocalCriticNetwork, heads: Sequence[Head]) -> None:
    """The main network's, and for each head those of the nearest trained critic, if it has the same shape."""
    main = network.main_state_dict()
    for group in dense.groups:
        group.load_state_dict({name: main[name] for name in group.state_dict()})
    for critic, head in zip(dense.critics, heads, strict=True):
        if head.nearest is None:
            continue
        trained = network.critics[head.nearest].state_dict()
        if _shapes(trained) == _shapes(critic.state_dict()):
            critic.load_state_dict(trained)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _epochs(network: LocalCriticNetwork, dense: LocalCriticNetwork, example: Tensor, training: TrainConfig) -> int:
    """As many as cost at most `TRAINING_SHARE` of the run's training, but 1; a backward pass counts as two forward."""
    costs = group_costs(network, example)
    step = 3 * sum(cost.flops + cost.critic_flops for cost in costs)
    if training.freeze_main:
        step -= 2 * sum(cost.flops for cost in costs)
    added = sum(cost.flops + 3 * cost.critic_flops for cost in group_costs(dense, example))
    return max(1, int(TRAINING_SHARE * training.epochs * step / added))


def _said(head: Head) -> str:
    return f"at {head.cut.name}" + ("" if head.width == 1 else f", {head.width:g} x as wide")
