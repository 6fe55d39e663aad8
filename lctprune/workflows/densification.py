"""A dense front from one run: critics at the places where no critic stands yet, and narrower ones, trained on the main
network as it is.

All of them learn in one pass through the frozen main network, each from its own losses, and each starts from the
nearest trained critic of equal shape, or else as the first channels of a wider one for a tensor of the same shape.
"""

from __future__ import annotations

import dataclasses
import operator
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data
from lctprune.errors import NetworkWarning, RunError
from lctprune.measure.group_costs import group_costs
from lctprune.models.build import build_network
from lctprune.network import LocalCriticNetwork
from lctprune.runs import Run
from lctprune.training.trainer import open_run, train_steps
from lctprune.workflows.added_critics import Head, heads_to_add
from lctprune.workflows.loading import load_network, recorded_training, require_recipe
from lctprune.workflows.members import DENSE, begun_below, origin_record
from lctprune.workflows.session import Begun

TRAINING_SHARE = 0.2  # of the run's own training, in FLOPs, that the added critics take at most by default


def densify(run: Run, *, data: Data | None = None, epochs: int | None = None, resume: bool = False) -> Run:
    """Add critics to a trained run: at the places where it has none, and narrower ones at all.

    The main network and the trained critics stay as they are. What is added stands in a run of its own, `dense/` below
    the run, and among its candidates.

    Args:
        run: trained to its end.
        data: what to train on, by the default loss; by default what the run was trained on. Only the samples may be
            others.
        epochs: passes over the training split; by default as many as fit into a fifth of the run's training, in FLOPs,
            but at least 1.
        resume: continue from the last whole epoch.

    Raises:
        ConfigError: `epochs` is less than 1.
        NetworkError: there is no place for a further critic.
        RunError: critics were added already, or the run is not finished, cannot be loaded, or was itself added to one;
            or `data` has other classes, words, columns or normalisation.
    """
    begun = begin_dense(run, data=data, epochs=epochs, resume=resume)
    assert begun.run is not None
    for _ in train_steps(*begun):
        pass
    return begun.run


def begin_dense(run: Run, *, data: Data | None = None, epochs: int | None = None, resume: bool = False) -> Begun:
    """What `train_steps` takes to add critics. See `densify`."""
    require_recipe(run)
    folder = run.path / DENSE
    begun = begun_below(run, folder, resume=resume)
    if run.epochs_done < run.config["training"]["epochs"]:
        raise RunError(f"{run.path} is not trained to its end; go on with lctprune train --resume --out {run.path}")
    network, training = load_network(run), recorded_training(run)
    data = run.load_data() if data is None else run.require_alike(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkWarning)  # said when the run was trained
        heads = heads_to_add(network, data.example)
        dense = _dense_network(network, heads, seed=training.seed)
    if epochs is None:
        recorded = begun and begun.config["training"]["epochs"]
        epochs = recorded or default_epochs(network, dense, data.example, training)
    config = dataclasses.replace(
        training,
        epochs=epochs,
        freeze_main=True,
        method="local-critic",
        matching="0",
        distill="0",
        critic_period=1,
        diagnostics=False,
        device="auto",  # this machine may be another one
    )
    origin = origin_record(run, [head.said for head in heads])
    return Begun(dense, data, open_run(dense, data, config, run_dir=folder, resume=resume, origin=origin))


def _dense_network(network: LocalCriticNetwork, heads: Sequence[Head], *, seed: int) -> LocalCriticNetwork:
    """The main network with the heads as its critics."""
    assert network.recipe is not None  # or the run could not have been loaded
    torch.manual_seed(seed)
    dense = build_network(_recipe(network.recipe, heads))
    _take_weights(dense, network, heads)
    return dense


def _recipe(recipe: NetworkConfig, heads: Sequence[Head]) -> NetworkConfig:
    depths = [head.depth for head in heads]
    return dataclasses.replace(
        recipe,
        groups=len(heads) + 1,
        split_at=None,
        cuts=tuple(head.cut.node_name for head in heads),
        critic_width=tuple(head.width for head in heads),
        critic_depth=None if None in depths else tuple(depth for depth in depths if depth is not None),
        weights="..",  # the run that it stands in, wherever that is moved to
    )


def _take_weights(dense: LocalCriticNetwork, network: LocalCriticNetwork, heads: Sequence[Head]) -> None:
    """The main network's, and for each head those of a trained critic, or the first channels of one."""
    main = network.main_state_dict()
    for group in dense.groups:
        group.load_state_dict({name: main[name] for name in group.state_dict()})
    trained = [critic.state_dict() for critic in network.critics]
    for critic, head in zip(dense.critics, heads, strict=True):
        own = critic.state_dict()
        equal = (trained[index] for index in head.nearest if _shapes(trained[index]) == _shapes(own))
        parts = (_leading_channels(trained[index], own) for index in head.alike)
        start = next(equal, None) or next(filter(None, parts), None)
        if start is not None:
            critic.load_state_dict(start)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _leading_channels(trained: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The part of a wider critic for a tensor of the same shape that a narrower one is; None where it is none."""
    if own.keys() != trained.keys():
        return None
    shapes = [(tensor.shape, trained[name].shape) for name, tensor in own.items()]
    if any(len(part) != len(whole) or any(map(operator.gt, part, whole)) for part, whole in shapes):
        return None
    return {name: trained[name][tuple(map(slice, tensor.shape))] for name, tensor in own.items()}


def default_epochs(
    network: LocalCriticNetwork, dense: LocalCriticNetwork, example: Tensor, training: TrainConfig
) -> int:
    """As many as cost at most `TRAINING_SHARE` of the run's training, but 1; a backward pass counts as two forward."""
    costs = group_costs(network, example)
    step = 3 * sum(cost.flops + cost.critic_flops for cost in costs)
    if training.freeze_main:
        step -= 2 * sum(cost.flops for cost in costs)
    added = sum(cost.flops + 3 * cost.critic_flops for cost in group_costs(dense, example))
    return max(1, int(TRAINING_SHARE * training.epochs * step / added))
