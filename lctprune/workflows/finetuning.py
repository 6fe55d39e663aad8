"""Train one exit of a run further, end to end, as a network of its own, with the main network as its teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data
from lctprune.data.splits import Batch, Split
from lctprune.errors import ConfigError, RunError
from lctprune.losses import Loss, default_loss, distance_to_teacher
from lctprune.models.build import network_of
from lctprune.network import LocalCriticNetwork
from lctprune.runs import Run
from lctprune.training.trainer import open_run, train_steps
from lctprune.utils.modules import moved
from lctprune.workflows.loading import load_network, recorded_training
from lctprune.workflows.members import FINETUNED, Member, begun_below, member_of, origin_record

EPOCHS = 1  # by default
RATE_SHARE = 0.2  # of the run's highest learning rate, by default
DISTILL = 0.5  # by default


class Finetuning(NamedTuple):
    """What `train_steps` takes to fine-tune."""

    network: LocalCriticNetwork
    data: Data
    run: Run
    loss: Loss
    validation_loss: Loss


def finetune(
    run: Run,
    exit: int,
    *,
    data: Data | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    distill: float | None = None,
    resume: bool = False,
) -> Run:
    """Train one exit of a run further, through all of its layers.

    The run stays as it is. The result stands in a run of its own, `finetuned/exitK/` below it, and is among its
    candidates.

    Args:
        run: with a finished epoch.
        exit: number of the candidate.
        data: what to train on, by the default loss; by default what the run was trained on. Only the samples may be
            others.
        epochs: passes over the training split, by default 1.
        lr: highest learning rate; by default a fifth of the run's.
        distill: share of the loss that is the distance to the main network's outputs (of classes: softened by a
            temperature of 4), 0 to 1, by default 0.5; the rest is the loss of the labels.
        resume: continue from the last whole epoch. What is not given is then as it was begun with.

    Raises:
        ConfigError: a value is out of range.
        NetworkError: there is no such exit.
        RunError: this exit was fine-tuned already, or begun with other settings, or the run cannot be loaded, or was
            itself added to one; or `data` has other classes, words, columns or normalisation.
    """
    begun = begin_finetuning(run, exit, data=data, epochs=epochs, lr=lr, distill=distill, resume=resume)
    for _ in train_steps(*begun[:3], loss=begun.loss, validation_loss=begun.validation_loss):
        pass
    return begun.run


def begin_finetuning(
    run: Run,
    exit: int,
    *,
    data: Data | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    distill: float | None = None,
    resume: bool = False,
) -> Finetuning:
    """What `train_steps` takes to train one exit further. See `finetune`."""
    if distill is not None and not 0 <= distill <= 1:
        raise ConfigError(f"distill is {distill}; it must lie between 0 and 1")
    member, folder = member_of(run, exit), run.path / FINETUNED / f"exit{exit}"
    begun = begun_below(run, folder, resume=resume)
    if begun is None:
        distill = DISTILL if distill is None else distill
    else:
        recorded = begun.config["origin"]["distill"]
        if distill not in (None, recorded):
            raise RunError(f"{folder} was begun with distill {recorded:g}; resume with the same settings")
        distill = recorded
    config = _config(begun or run, epochs=epochs, lr=lr, is_begun=begun is not None)
    network = _network(member)
    data = run.load_data() if data is None else run.require_alike(data)
    teacher = load_network(run) if distill else None
    origin = {**origin_record(run, [f"{member.origin or member.name}, fine-tuned"]), "distill": distill}
    opened = open_run(network, data, config, run_dir=folder, resume=resume, origin=origin)
    is_regression = data.train.targets.is_floating_point()
    loss = default_loss(data.train.targets, label_smoothing=config.label_smoothing)
    if teacher is not None:
        data = dataclasses.replace(data, train=TaughtSplit(data.train, teacher, config))
        loss = partial(distillation_loss, loss=loss, weight=distill, is_regression=is_regression)
    return Finetuning(network, data, opened, loss, default_loss(data.val.targets))


def _network(member: Member) -> LocalCriticNetwork:
    """The member alone, as a network of one group."""
    source = load_network(member.run)
    recipe = source.recipe
    assert recipe is not None  # or the run could not have been loaded
    if recipe.exit is not None:
        return source  # it was fine-tuned before
    return network_of(source, dataclasses.replace(recipe, exit=member.exit))


def _config(run: Run, *, epochs: int | None, lr: float | None, is_begun: bool) -> TrainConfig:
    """Of fine-tuning: from the settings of the run, or as it was begun; what is given comes first."""
    config = recorded_training(run)
    if not is_begun:
        rate = RATE_SHARE * (config.lr or 0.0)
        config = dataclasses.replace(
            config,
            method="backprop",
            freeze_main=False,
            diagnostics=False,
            device="auto",  # this machine may be another one
            matching="0",
            distill="0",
            epochs=EPOCHS,
            lr=rate,
        )
    return dataclasses.replace(
        config, epochs=config.epochs if epochs is None else epochs, lr=config.lr if lr is None else lr
    )


class TaughtSplit:
    """A split whose shuffled batches carry, behind each target, what a teacher gives for the input.

    Targets become [batch, target's numbers + outputs], in single precision; `batches` are as they were.

    Args:
        split: of labelled samples.
        teacher: in evaluation mode.
        config: of the training, which says in which precision the teacher computes; resolved.
    """

    def __init__(self, split: Split, teacher: nn.Module, config: TrainConfig) -> None:
        self._split, self._config = split, config.resolved()
        self._teacher = moved(teacher.eval(), self._config.device)

    @property
    def targets(self) -> Tensor:
        return self._split.targets

    def batches(self, batch_size: int) -> Iterator[Batch]:
        return self._split.batches(batch_size)

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        for inputs, targets in self._split.shuffled(batch_size, seed=seed):
            with torch.no_grad(), self._config.autocast():
                outputs = self._teacher(inputs.to(self._config.device)).float().cpu()
            yield inputs, torch.cat([targets.float().reshape(len(targets), -1), outputs], 1)


def distillation_loss(output: Tensor, target: Tensor, *, loss: Loss, weight: float, is_regression: bool) -> Tensor:
    """(1 - weight) loss(output, label) + weight distance(output, teacher's output), per sample.

    The distance is that of `distance_to_teacher`.

    Args:
        output: [batch, outputs].
        target: [batch, label's numbers + outputs], as `TaughtSplit` gives it.
        loss: of the labels.
        weight: 0 to 1.
        is_regression: whether labels are numbers to predict, not class indices.

    Returns:
        [batch].
    """
    output = output.float()
    outputs = output.shape[1]
    label, taught = target[:, :-outputs], target[:, -outputs:]
    losses = loss(output, label if is_regression else label[:, 0].long())
    return (1 - weight) * losses + weight * distance_to_teacher(is_regression=is_regression)(output, taught)
