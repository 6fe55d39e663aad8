"""Consecutive groups in one process: all of them, or one process's part of a pipeline."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lctprune.config.training import ResolvedTrainConfig
from lctprune.data.splits import Batch, Split
from lctprune.errors import TrainingError
from lctprune.losses import Distance, Loss, softened_distance
from lctprune.measure.scores import ExitScores, ScoreSheet, even_batch_size
from lctprune.network import LocalCriticNetwork
from lctprune.training.accelerator import searching_algorithms
from lctprune.training.agreement import GroupAgreement, measure_agreement
from lctprune.training.blocks import block_step
from lctprune.training.group_trainer import GroupTrainer, StepSettings
from lctprune.training.joint import joint_step
from lctprune.training.links import Links
from lctprune.training.mixing import mix_of, mixed_loss
from lctprune.training.reading import on_device, without_single
from lctprune.training.recomputation import plan
from lctprune.update import (
    AfterExit,
    AfterGroup,
    BeforeGroup,
    CriticPending,
    Exit,
    Gradient,
    Objective,
    StepEvent,
    backward_critic,
    local_critic_step,
)
from lctprune.utils.modules import evaluation_mode, hold_frozen, hold_statistics, laid_out, packed, training_for_now
from lctprune.utils.transfer import sent

EVALUATION_BATCH = 512


class Stage:
    """Consecutive groups, and how they reach those in other processes.

    Args:
        trainers: trainers of the groups, in the order of the network.
        config: settings of the training.
        loss: loss per sample.
        distance: distance of a critic's output from the next exit's, per sample, for critics that distil.
        links: links to other processes.
        layout: memory layout of the whole network, from `training_layout`.
        ends: numbers of the groups that end a block of `block_step`; by default groups learn by the method alone.

    Attributes:
        means: mean training losses of the exits here, set by the training loop; `step` tells the process before.
        totals: function that sums these losses, and last the fractions of samples that count, over the steps of the
            epoch; set by the training loop.
        is_due: function that tells whether a checkpoint is due after a step of the epoch, from 1; set by the training
            loop, asked where batches are read, and passed on with them.
    """

    def __init__(
        self,
        trainers: Sequence[GroupTrainer],
        config: ResolvedTrainConfig,
        loss: Loss,
        *,
        distance: Distance = softened_distance,
        links: Links | None = None,
        layout: torch.memory_format = torch.channels_last,
        ends: Collection[int] = (),
    ) -> None:
        self.trainers = list(trainers)
        self.links = links or Links()
        self.means: list[float] = []
        self.totals: Callable[[], list[float]] = list
        self.is_due: Callable[[int], bool] = lambda step: False
        self._due: deque[bool] = deque()  # of the batches that were read and not yet trained on
        self._keeps = False  # whether a checkpoint follows this step
        self._later_means: list[float] = []
        self._config, self._loss, self._distance, self._layout = config, loss, distance, layout
        self._ends = ends
        self._modules = nn.ModuleList(trainer.modules for trainer in self.trainers)
        self._pending: tuple[Exit, StepSettings] | None = None  # the last critic's, from the step before
        self._must_plan = config.recompute != "off" and not config.freeze_main

    def train_mode(self) -> None:
        """Put all modules into training mode, but frozen groups and frozen statistics into evaluation mode."""
        for trainer in self.trainers:
            trainer.modules.train()
            trainer.group.train(not self._config.freeze_main)
            hold_frozen(trainer.group)
            if self._config.batch_norm != "train":
                hold_statistics(trainer.group, new=self._config.new_parameters)

    def batches(self, split: Split | None, *, seed: int) -> Iterator[Batch]:
        """Yield one epoch's batches: inputs, or what the previous groups made of them; pass the epoch's end on."""
        self._due.clear()
        batches: Iterator[Batch] = iter(())
        if self.links.source is not None:
            batches = on_device(self._received(), self._config.device, ahead=False)  # what follows waits for this step
        elif split is not None:
            batches = on_device(self._shuffled(split, seed), self._config.device, ahead=True)
        for batch in batches:
            self._keeps = self._due.popleft()
            yield batch
        for link in (self.links.next, *self.links.first_ranks):
            if link is not None:
                link.send()

    def step(self, inputs: Tensor, targets: Tensor, settings: StepSettings) -> list[Tensor]:
        """Take one step of training, in which all modules here learn.

        A critic whose next exit is in the next process learns in the next step, or in `flush_critic_update`.

        Returns:
            The losses per sample of each exit here, [batch] each.
        """
        inputs, targets = sent(inputs, self._config.device), sent(targets, self._config.device)
        inputs = laid_out(inputs, self._layout)
        self._plan_recomputation(inputs)
        first, loss = self.trainers[0].index, self._loss
        if (mix := mix_of(settings.step, self._config)) is not None:
            inputs = mix.apply(inputs) if first == 0 else inputs
            loss = mixed_loss(loss, mix.kept)
        losses: list[Tensor] = []
        for event in self._events(inputs, targets, settings, loss):
            trainer = self.trainers[event.index - first]
            match event:
                case BeforeGroup():
                    trainer.seed("group", settings)
                case AfterGroup(output=output):
                    if trainer is self.trainers[-1] and self.links.next is not None:
                        note = {"keep": True} if self._keeps else None
                        self.links.next.send(note, [output, targets])  # travels while this process goes on
                        self.flush_critic_update()
                    trainer.seed("critic", settings)
                case AfterExit(exit=exit):
                    losses.append(exit.losses)
                    if trainer is self.trainers[0]:
                        self._teach_previous(exit, settings)
                case Gradient(part=part):
                    trainer.learn(part, settings)
                case CriticPending(exit=exit):
                    self._pending = exit, settings
        if (scale := self.trainers[0].loss_scale) is not None and settings.learns:
            scale.update()
        return losses

    def _events(self, inputs: Tensor, targets: Tensor, settings: StepSettings, loss: Loss) -> Iterator[StepEvent]:
        parts = [trainer.part for trainer in self.trainers]
        if self._config.method == "joint":
            return joint_step(parts, inputs, targets, loss=loss)
        objective = self._objective(settings) if settings.update_critics else None
        if self._ends:
            return block_step(parts, inputs, targets, loss=loss, objective=objective, ends=self._ends)
        return local_critic_step(parts, inputs, targets, loss=loss, objective=objective)

    def _plan_recomputation(self, inputs: Tensor) -> None:
        """Decide in the first step which groups here run a second time, by what a few samples take."""
        if self._must_plan:
            self._must_plan = False
            with training_for_now(self._modules), torch.enable_grad():
                self.train_mode()
                found = plan(
                    [each.group for each in self.trainers], inputs, self._config, freed_after=self._freed_after
                )
            for index, parts in found.items():
                self.trainers[index].recompute(parts)

    @property
    def _freed_after(self) -> set[int]:
        """The groups here, by position, after whose backward pass no activations are held."""
        if self._config.method == "joint":
            return set()
        return {position for position, each in enumerate(self.trainers) if not self._ends or each.index in self._ends}

    def _objective(self, settings: StepSettings) -> Objective:
        return Objective(settings.matching, settings.distill, self._distance)

    def _teach_previous(self, exit: Exit, settings: StepSettings) -> None:
        """Send the first exit's losses to the previous process, whose last critic learns from them."""
        if self.links.previous is not None and settings.update_critics:
            outputs = [exit.output] if settings.distill else []
            self.links.previous.send({"means": self.known_means}, [exit.losses, *outputs])

    @property
    def keeps(self) -> bool:
        """Whether all processes write a checkpoint after the step of the batch that was read last."""
        return self._keeps

    def own_totals(self, totals: Sequence[float]) -> Tensor:
        """Take from `totals` of the whole network those of the exits here, and the last one."""
        first = self.trainers[0].index
        return torch.tensor([*totals[first : first + len(self.trainers)], totals[-1]])

    def flush_critic_update(self) -> None:
        """Make the pending update of the last critic here, from the next exit of the step before."""
        if self._pending is None:
            return
        assert self.links.next is not None
        note, tensors = self.links.next.receive()
        self._later_means = note["means"]
        next_losses, *outputs = (sent(tensor, self._config.device) for tensor in tensors)
        exit, settings = self._pending
        self._pending = None
        trainer = self.trainers[-1]
        assert trainer.critic is not None
        backward_critic(trainer.critic, exit, next(iter(outputs), None), next_losses, self._objective(settings))
        del exit  # with its graph, before the critic learns
        trainer.learn("critic", settings)

    @property
    def first_exit(self) -> int | None:
        """The number of the first exit here; None if the network has no critics."""
        first = self.trainers[0]
        return None if first.index == 0 and first.critic is None else first.index

    @property
    def known_means(self) -> list[float]:
        """Mean training losses of the exits from the first one here on; those of other processes a little late."""
        return [*self.means, *self._later_means]

    def evaluate(self, split: Split | None, loss: Loss | None = None) -> ExitScores:
        """Measure the exits here by the metric of the training, and their loss, in one pass over a split.

        Args:
            split: samples, in the process that reads the data; None in others, which receive theirs.
            loss: loss per sample; by default that of `default_loss`.

        Raises:
            DataError: the split has no samples.
        """
        sheet = ScoreSheet(loss, self._config.metric)
        given = self._received() if split is None else split.batches(even_batch_size(split, EVALUATION_BATCH))
        batches = on_device(given, self._config.device, ahead=split is not None)
        # no_grad, not inference_mode: what a module keeps for later calls must be fit for training
        with (
            self._averaged(),
            evaluation_mode(self._modules),
            torch.no_grad(),
            self._config.autocast(),
            searching_algorithms(is_on=False),
        ):
            for inputs, targets in batches:
                outputs = []
                for trainer in self.trainers:
                    inputs = packed(trainer.group(inputs))
                    outputs.append(inputs if trainer.critic is None else trainer.critic(inputs))
                if self.links.next is not None:
                    self.links.next.send(tensors=[inputs, targets])
                sheet.add(outputs, targets)
        if self.links.next is not None:
            self.links.next.send()
        return sheet.result()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        with ExitStack() as stack:
            for trainer in self.trainers:
                stack.enter_context(trainer.averaged())
            yield

    def agreement(self, inputs: Tensor, targets: Tensor) -> list[GroupAgreement]:
        """Measure how far local and true gradients agree on one batch, in the precision of training.

        All groups of the network must be here.
        """
        critics = [trainer.critic for trainer in self.trainers if trainer.critic is not None]
        network = LocalCriticNetwork([trainer.group for trainer in self.trainers], critics)
        with self._config.autocast():
            inputs, targets = sent(inputs, self._config.device), sent(targets, self._config.device)
            inputs = laid_out(inputs, self._layout)
            return measure_agreement(network, inputs, targets, loss=self._loss, seed=self._config.seed)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that training changes here, under its names in a checkpoint."""
        return {name: tensor for trainer in self.trainers for name, tensor in trainer.tensors().items()}

    @property
    def replicas(self) -> int:
        """The number of pipelines that this process feeds, its own included."""
        return len(self.links.first_ranks) + 1

    @property
    def seconds_waited(self) -> float:
        """Seconds spent waiting for other processes since training began."""
        return sum(link.seconds_waited for link in self.links.all)

    def _shuffled(self, split: Split, seed: int) -> Iterator[Batch]:
        batches = without_single(split.shuffled(self._config.batch_size, seed=seed))
        for step, (inputs, targets) in enumerate(batches, start=1):
            self._due.append(self.is_due(step))
            yield self._own_part(inputs, targets)

    def _received(self) -> Iterator[Batch]:
        assert self.links.source is not None
        while (message := self.links.source.receive()).tensors:
            inputs, targets = message.tensors
            self._due.append("keep" in message.note)
            yield inputs, targets

    def _own_part(self, inputs: Tensor, targets: Tensor) -> Batch:
        """Split a batch into one equal part per replica; return the first and send the others to theirs."""
        note = {"keep": True} if self._due[-1] else None
        if self.replicas == 1:
            return inputs, targets
        size, rest = divmod(len(targets), self.replicas)
        if rest:
            raise TrainingError(
                f"a batch of {len(targets)} samples cannot be split equally among {self.replicas} replicas; "
                f"give `batch_size={max(size, 1) * self.replicas}`, or fewer `replicas`"
            )
        parts = zip(torch.split(inputs, size), torch.split(targets, size), strict=True)
        own = next(parts)
        for link, part in zip(self.links.first_ranks, parts, strict=True):
            link.send(note, part)
        return own
