"""Train one network of a run further, from end to end, with the run's main network as its teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data
from lctprune.data.splits import Batch, Split, sample_count
from lctprune.data.tensor_split import TensorSplit
from lctprune.data.wrapped_split import WrappedSplit
from lctprune.errors import ConfigError, RunError
from lctprune.losses import Loss, default_loss, distance_to_teacher
from lctprune.models.build import network_of
from lctprune.network import LocalCriticNetwork
from lctprune.runs import Run
from lctprune.training.trainer import open_run
from lctprune.utils.modules import moved
from lctprune.utils.transfer import sent
from lctprune.workflows.loading import LoadedRun, recorded_training, require_recipe
from lctprune.workflows.members import Member, new_origin, run_to_resume
from lctprune.workflows.session import Session

# defaults
EPOCHS = 1
RATE_FRACTION = 0.2  # of the peak learning rate of a run that began with new weights, or with a frozen network
DISTILL = 0.5
MOST_KEPT = 2**30  # bytes of a teacher's outputs
Outputs = dict[tuple[int, int, int], Tensor]  # of a teacher, by batch size, seed of the pass, and number of the batch


def begin_taught(
    loaded: LoadedRun,
    folder: Path,
    description: str,
    build: Callable[[Run | None, Data], LocalCriticNetwork],
    *,
    data: Data | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    distill: float | None = None,
    views: int = 0,
    outputs: Outputs | None = None,
    resume: bool = False,
    **changes: Any,
) -> Session:
    """Open an added run that trains one network with the main network as its teacher. See `finetune`.

    Args:
        loaded: run that the network is added to.
        folder: directory of the added run.
        description: how the network came to be.
        build: makes the network, of one group, from the run that is resumed (None at the start) and the data.
        data: data to train on; by default the run's own.
        epochs: passes over the training split, by default 1.
        lr: peak learning rate; by default a fifth of the run's.
        distill: weight of the distance to the main network's outputs in the loss, by default 0.5.
        views: number of passes after which they repeat, see `TaughtSplit`; of a resumed training, what it began with.
        outputs: outputs of the same teacher for these passes, of other trainings; more are added to them.
        resume: whether to continue from the last whole epoch.
        changes: further settings of the training, by name, at the start.
    """
    if distill is not None and not 0 <= distill <= 1:
        raise ConfigError(f"distill is {distill}; it must lie between 0 and 1")
    run = loaded.run
    resumed = run_to_resume(loaded, folder, resume=resume)
    weight = _distill(resumed, distill)
    config = _config(resumed or run, epochs=epochs, lr=lr, is_resumed=resumed is not None, **changes)
    data = run.load_data() if data is None else run.require_alike(data)
    network = build(resumed, data)
    teacher = loaded.new_network() if weight else None
    origin = new_origin(loaded, [description], distill=weight, views=views or None)
    opened = open_run(network, data, config, run_dir=folder, resume=resume, origin=origin)
    is_regression = data.train.targets.is_floating_point()
    loss = default_loss(data.train.targets, label_smoothing=config.label_smoothing)
    if teacher is not None:
        assert opened.config.origin is not None  # of an added run
        views = opened.config.origin.views or 0
        data = dataclasses.replace(data, train=TaughtSplit(data.train, teacher, config, views=views, outputs=outputs))
        loss = partial(distillation_loss, loss=loss, weight=weight, is_regression=is_regression)
    return Session(network, data, opened, loss, default_loss(data.val.targets))


def _distill(resumed: Run | None, given: float | None) -> float:
    """Return the weight of distillation: that of the resumed run, or else the given one, or else the default.

    Raises:
        RunError: the given weight is not that of the resumed run.
    """
    if resumed is None or resumed.config.origin is None:
        return DISTILL if given is None else given
    recorded = resumed.config.origin.distill or 0.0
    if given not in (None, recorded):
        raise RunError(f"{resumed.path} was begun with distill {recorded:g}; resume with the same settings")
    return recorded


def load_alone(loaded: LoadedRun, member: Member) -> LocalCriticNetwork:
    """Load a member as a network of one group."""
    return alone(loaded.new_network(member.run), member)


def alone(network: LocalCriticNetwork, member: Member) -> LocalCriticNetwork:
    """Return a member as a network of one group, with the modules of the network that holds it."""
    recipe = require_recipe(member.run)
    if recipe.exit is not None:
        return network  # it was one before
    return network_of(network, dataclasses.replace(network.recipe or recipe, exit=member.exit))


def _config(run: Run, *, epochs: int | None, lr: float | None, is_resumed: bool, **changes: Any) -> TrainConfig:
    """Make the settings of fine-tuning from those of the run, or of the fine-tuning that is resumed.

    Args:
        run: run whose exit is fine-tuned, or the fine-tuning that is resumed.
        epochs: passes over the training split, if given.
        lr: peak learning rate, if given.
        is_resumed: whether `run` is the fine-tuning that is resumed.
        changes: further settings, by name, at the start.
    """
    config = recorded_training(run)
    if not is_resumed:
        weights = run.config.network.weights if run.config.network else None
        is_gentle = weights is not None and not config.freeze_main  # the rate is one for trained networks already
        rate = (1 if is_gentle else RATE_FRACTION) * (config.lr or 0.0)
        config = dataclasses.replace(
            config,
            method="backprop",
            freeze_main=False,
            diagnostics=False,
            device="auto",  # this machine may be another one
            matching="0",
            distill="0",
            blocks=None,
            epochs=EPOCHS,
            lr=rate,
        )
        config = dataclasses.replace(config, **changes)
    return dataclasses.replace(
        config, epochs=config.epochs if epochs is None else epochs, lr=config.lr if lr is None else lr
    )


class TaughtSplit(WrappedSplit):
    """A split whose shuffled batches carry, behind each target, a teacher's output for the input.

    Targets become [batch, target's numbers + outputs], in single precision; `batches` are unchanged.

    With `views`, so many passes are repeated in turns, order and augmentation included, and the teacher's outputs for
    them are kept: it computes each of them once, and the network can be trained for longer at the same cost. Fast
    knowledge distillation (Shen and Xing 2022, arXiv 2112.01528) keeps outputs for crops of images alike.

    Args:
        split: labelled samples.
        teacher: network, which is moved to the device of training.
        config: settings of training, which say in which precision the teacher computes.
        views: number of passes after which they repeat; 0: never.
        outputs: outputs that are known of these passes, to which further ones are added.
    """

    def __init__(
        self,
        split: Split,
        teacher: nn.Module,
        config: TrainConfig,
        *,
        views: int = 0,
        outputs: Outputs | None = None,
    ) -> None:
        super().__init__(split)
        self._config, self._views = config.resolved(), views
        self._teacher = moved(teacher.eval(), self._config.device)
        self._kept: Outputs = {} if outputs is None else outputs

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Yield shuffled batches of the split, with the teacher's outputs behind the targets."""
        if self._views:
            seed = self._config.seed * self._views + seed % self._views
        for number, (inputs, targets) in enumerate(self._split.shuffled(batch_size, seed=seed)):
            inputs, targets = sent(inputs, self._config.device), sent(targets, self._config.device)
            if (outputs := self._kept.get((batch_size, seed, number))) is None:
                with torch.no_grad(), self._config.autocast():
                    outputs = self._teacher(inputs).float()
                if self._views:
                    self._kept[batch_size, seed, number] = outputs
            yield inputs, torch.cat([targets.float().reshape(len(targets), -1), outputs], 1)


def repeatable_views(data: Data, views: int) -> int:
    """Return how many passes a teacher's outputs can be kept of: `views`, or 0.

    It is 0 where they take too much memory, and of splits of one's own, whose passes need not repeat with their seeds.
    """
    kept = 4 * views * sample_count(data.train) * data.num_outputs  # bytes, in single precision
    repeats = data.config is not None or isinstance(data.train, TensorSplit)
    return views if repeats and kept <= MOST_KEPT else 0


def distillation_loss(output: Tensor, target: Tensor, *, loss: Loss, weight: float, is_regression: bool) -> Tensor:
    """Compute (1 - weight) loss(output, label) + weight distance(output, teacher's output) per sample.

    The distance is that of `distance_to_teacher`.

    Args:
        output: output of the network, [batch, outputs].
        target: labels and the teacher's outputs, [batch, label's numbers + outputs], as `TaughtSplit` gives them.
        loss: loss of the labels.
        weight: weight of the distance, 0 to 1.
        is_regression: whether labels are numbers to predict, not class indices.

    Returns:
        [batch].
    """
    output = output.float()
    outputs = output.shape[1]
    label, taught = target[:, :-outputs], target[:, -outputs:]
    losses = loss(output, label if is_regression else label[:, 0].long())
    return (1 - weight) * losses + weight * distance_to_teacher(is_regression=is_regression)(output, taught)
