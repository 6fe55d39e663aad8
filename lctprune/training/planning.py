"""Find out the facts of a training that rank 0 broadcasts to all processes."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import Tensor

from lctprune.data.dataset import Data
from lctprune.data.splits import sample_count
from lctprune.errors import RunError
from lctprune.losses import (
    Distance,
    Loss,
    default_distance,
    is_own,
    mean_squared_error,
    softened_distance,
)
from lctprune.measure.counting import counting_of
from lctprune.measure.loss_trials import is_distance
from lctprune.measure.target_kinds import Kind, kind_of
from lctprune.network import LocalCriticNetwork
from lctprune.run_files import CHECKPOINT
from lctprune.runs import Run
from lctprune.training.loop import Plan
from lctprune.training.preflight import output_shape
from lctprune.utils.modules import device_of


def plan_of(network: LocalCriticNetwork, data: Data | None, run: Run | None, loss: Loss | None) -> Plan | None:
    """Return the plan of a run; None without data or a run.

    Raises:
        RunError: the checkpoint is within an epoch of another training.
    """
    if data is None or run is None:
        return None
    split, training = data.train, run.config.training
    steps = max(1, sample_count(split) // training.batch_size)
    header = run.header
    begun = (header.step, header.totals) if header.step else ()
    if begun and (header.step >= steps or len(header.totals) != len(network.groups) + 1):
        raise RunError(
            f"{run.path / CHECKPOINT}: step is {header.step} with {len(header.totals)} totals; here it must "
            f"be less than {steps} with {len(network.groups) + 1}; restore it from a copy, or train again"
        )
    plan = Plan(dataclasses.asdict(training), steps, header.epoch, split.targets.is_floating_point(), begun)
    if loss is None or not is_own(loss):
        return plan
    shape, targets = output_shape(network, data), split.targets
    device = device_of(network)
    kind = kind_of(shape, targets, loss, device=device)
    counting = counting_of(kind, shape, loss, device)
    return plan._replace(counting=counting, distance=_natural_distance(kind, targets, loss))


def distance_of(plan: Plan, loss: Loss | None, *, distils: bool) -> Distance:
    """Return the distance by which critics distil where the caller gives none."""
    if plan.distance == "loss":
        assert loss is not None
        return loss
    if plan.distance:
        return softened_distance if plan.distance == "softened" else mean_squared_error
    return default_distance(loss, is_regression=plan.is_regression, distils=distils)


def _natural_distance(kind: Kind, targets: Tensor, loss: Loss) -> Literal["softened", "squared", "loss"]:
    """Return by what critics are best told how far their outputs are, where the loss is the caller's own.

    Outputs for classes are compared by `softened_distance`; predictions by the loss itself, if it is lowest where they
    equal targets; all others by their squared difference.

    Args:
        kind: kind of the targets.
        targets: targets, [n, ...].
        loss: loss of the caller's own.
    """
    if kind in ("classes", "probabilities"):
        return "softened"
    return "loss" if targets.is_floating_point() and is_distance(loss, targets) else "squared"
