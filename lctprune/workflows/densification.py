"""Densify a run's front: add critics at further cut points, and narrower critics, to the frozen main network.

All of them learn in one pass through the main network, each from its own losses. Each starts from the nearest trained
critic of equal shape, or else as the first channels of a wider one for a tensor of the same shape.
"""

from __future__ import annotations

import dataclasses
import operator
import statistics
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lctprune.config.history import SPEED
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data
from lctprune.errors import NetworkWarning, RunError
from lctprune.measure.group_costs import measure_groups
from lctprune.models.build import build_network
from lctprune.network import LocalCriticNetwork
from lctprune.runs import Run, as_run
from lctprune.training.trainer import open_run
from lctprune.utils.wording import duration
from lctprune.workflows.added_critics import AddedCritic, critics_to_add
from lctprune.workflows.loading import LoadedRun, recorded_training, require_recipe
from lctprune.workflows.members import DENSE, new_origin, run_to_resume
from lctprune.workflows.session import Session

TRAINING_FRACTION = 0.2  # default limit of the added critics' training, as a fraction of the run's own, in FLOPs


def densify(run: str | Path | Run, *, data: Data | None = None, epochs: int | None = None, resume: bool = False) -> Run:
    """Densify a trained run's front: add critics at further cut points, and narrower critics at all cut points.

    The main network and the trained critics stay as they are. The added critics are kept in a run of their own,
    `dense/` below the given run, whose candidates then include them.

    Args:
        run: run that is trained to its end, or its directory.
        data: data to train on, with the default loss; by default the run's own. Its samples may differ, but not its
            classes, words, columns or normalisation.
        epochs: passes over the training split; by default as many as fit into a fifth of the run's training, in FLOPs,
            but at least 1.
        resume: whether to continue from the last whole epoch.

    Returns:
        The added run.

    Raises:
        ConfigError: `epochs` is less than 1.
        NetworkError: no further critic can be added.
        RunError: critics were added already; or the run is not finished, cannot be loaded, or was itself added to
            another one; or `data` has other classes, words, columns or normalisation.
    """
    session = begin_dense(as_run(run), data=data, epochs=epochs, resume=resume)
    for _ in session.steps():
        pass
    return session.opened


def begin_dense(
    run: Run,
    *,
    data: Data | None = None,
    epochs: int | None = None,
    resume: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Session:
    """Build the densified front of a run and open the added run. See `densify`."""
    require_recipe(run)
    loaded, folder = LoadedRun(run), run.path / DENSE
    resumed = run_to_resume(loaded, folder, resume=resume)
    if loaded.epochs_done() < run.config.training.epochs:
        raise RunError(f"{run.path} is not trained to its end; go on with {run.command('resume')}")
    network, training = loaded.network(), recorded_training(run)
    data = run.load_data() if data is None else run.require_alike(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkWarning)  # shown when the run was trained
        added = critics_to_add(network, data.example)
        dense = densified(network, added, seed=training.seed)
    cost = cost_of_pass(network, dense, data.example, training)
    if epochs is None:
        epochs = resumed.config.training.epochs if resumed else default_epochs(cost, training)
    config = dataclasses.replace(
        training,
        epochs=epochs,
        freeze_main=True,
        method="local-critic",
        matching="0",
        distill="0",
        critic_period=1,
        blocks=None,
        diagnostics=False,
        device=device,  # by default not that of the run: this machine may be another one
    )
    origin = new_origin(loaded, [each.origin for each in added])
    opened = open_run(dense, data, config, run_dir=folder, resume=resume, origin=origin)
    return Session(dense, data, opened, cost=None if cost is None else epochs * cost)


def densified(network: LocalCriticNetwork, added: Sequence[AddedCritic], *, seed: int) -> LocalCriticNetwork:
    """Build the main network with added critics as its critics, and with the weights of the trained ones.

    Args:
        network: network with a recipe.
        added: critics from `critics_to_add`.
        seed: random seed of new weights.
    """
    assert network.recipe is not None  # or the run could not have been loaded
    torch.manual_seed(seed)
    densified = build_network(_recipe(network.recipe, added))
    _take_weights(densified, network, added)
    return densified


def _recipe(recipe: NetworkConfig, added: Sequence[AddedCritic]) -> NetworkConfig:
    depths = [each.depth for each in added]
    return dataclasses.replace(
        recipe,
        groups=len(added) + 1,
        split_at=None,
        cuts=tuple(each.cut.node_name for each in added),
        cut_point_names=tuple(each.cut.name for each in added),
        critic_kinds=tuple(each.kind for each in added) if recipe.critic == "auto" else None,
        critic_width=tuple(each.width for each in added),
        critic_depth=None if None in depths else tuple(depth for depth in depths if depth is not None),
        tracing=None,  # groups between other cut points are compared with the network
        weights="..",  # the run that it stands in, wherever that is moved to
    )


def _take_weights(densified: LocalCriticNetwork, network: LocalCriticNetwork, added: Sequence[AddedCritic]) -> None:
    """Copy the main network's weights, and for each critic those of a trained one, or the first channels of one."""
    main = network.main_state_dict()
    for group in densified.groups:
        group.load_state_dict({name: main[name] for name in group.state_dict()})
    trained = [critic.state_dict() for critic in network.critics]
    for critic, each in zip(densified.critics, added, strict=True):
        own = critic.state_dict()
        equal = (trained[index] for index in each.nearest if _shapes(trained[index]) == _shapes(own))
        parts = (_leading_channels(trained[index], own) for index in each.alike)
        start = next(equal, None) or next(filter(None, parts), None)
        if start is not None:
            critic.load_state_dict(start)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _leading_channels(trained: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Cut a narrower critic's weights out of a wider one's; None where the critics differ otherwise."""
    if own.keys() != trained.keys():
        return None
    shapes = [(tensor.shape, trained[name].shape) for name, tensor in own.items()]
    if any(len(part) != len(whole) or any(map(operator.gt, part, whole)) for part, whole in shapes):
        return None
    return {name: trained[name][tuple(map(slice, tensor.shape))] for name, tensor in own.items()}


def default_epochs(pass_cost: float | None, training: TrainConfig) -> int:
    """Compute the epochs that cost at most `TRAINING_FRACTION` of the run's training, but at least 1.

    Args:
        pass_cost: cost of a pass, as `cost_of_pass` computes it; where it is not known, one pass it is.
        training: settings of the run's training.
    """
    return 1 if pass_cost is None else max(1, int(TRAINING_FRACTION * training.epochs / pass_cost))


def cost_of_pass(
    network: LocalCriticNetwork, densified: LocalCriticNetwork, example: Tensor, training: TrainConfig
) -> float | None:
    """Compute what a pass costs that trains the added critics, in epochs of the run's own training, by FLOPs.

    A backward pass counts as two forward passes.

    Args:
        network: the run's network.
        densified: the main network with the added critics.
        example: input, [batch, ...].
        training: settings of the run's training.

    Returns:
        The cost; None where FLOPs are not known.
    """
    step, added = 0, 0
    for cost in measure_groups(network, example):
        if cost.flops is None or cost.critic_flops is None:
            return None
        step += (1 if training.freeze_main else 3) * cost.flops + 3 * cost.critic_flops
    for cost in measure_groups(densified, example):
        if cost.flops is None or cost.critic_flops is None:
            return None
        added += cost.flops + 3 * cost.critic_flops
    return added / step


def cost_text(run: Run, cost: float | None) -> str:
    """Say what a training that adds to a run costs, for people.

    Args:
        run: the run.
        cost: cost in epochs of its own training; None where that is not known.
    """
    if cost is None:
        return "a cost that is not known"
    text = f"about {cost:.2g} epochs of its own training"
    with suppress(RunError, ValueError, LookupError):  # of metrics.csv, which the training can do without
        pace = statistics.median(float(row[SPEED]) for row in run.metrics)
        seconds = cost * (run.config.data.samples["train"] if run.config.data else 0) / pace
        text += f" ({duration(seconds)} at its pace)" if seconds else ""
    return text
