"""Consecutive workers in one process: all of them, or one process's part of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lctprune.config.training import TrainConfig
from lctprune.data.splits import Batch, Split
from lctprune.errors import TrainingError
from lctprune.losses import Loss
from lctprune.measure.scores import ExitScores, ScoreSheet
from lctprune.network import LocalCriticNetwork
from lctprune.training.agreement import GroupAgreement, measure_agreement
from lctprune.training.links import Links
from lctprune.training.worker import StepSettings, Worker
from lctprune.utils.modules import evaluation_mode, packed

EVALUATION_BATCH = 512


class Stage:
    """Consecutive workers, and how they are reached from others.

    Args:
        workers: in the order of the network.
        config: resolved.
        loss: per sample.
        links: to other processes.

    Attributes:
        means: mean training losses of the exits here, which training keeps; `step` tells the processes before.
    """

    def __init__(self, workers: Sequence[Worker], config: TrainConfig, loss: Loss, links: Links | None = None) -> None:
        self.workers = list(workers)
        self.links = links or Links()
        self.means: list[float] = []
        self._later_means: list[float] = []
        self._config, self._loss = config, loss
        self._modules = nn.ModuleList(worker.modules for worker in self.workers)

    def train_mode(self) -> None:
        """As a step needs it; frozen groups stay in evaluation mode."""
        for worker in self.workers:
            worker.modules.train()
            worker.group.train(not self._config.freeze_main)

    def batches(self, split: Split | None, *, seed: int) -> Iterator[Batch]:
        """One epoch's batches, of inputs or of what the previous groups made of them; passes their end on."""
        if self.links.source is not None:
            yield from self._received()
        elif split is not None:
            for inputs, targets in split.shuffled(self._config.batch_size, seed=seed):
                yield self._own_share(inputs, targets)
        for link in (self.links.next, *self.links.first_ranks):
            if link is not None:
                link.send()

    def step(self, inputs: Tensor, targets: Tensor, settings: StepSettings) -> list[Tensor]:
        """One step of training, in which critics learn: all but the last one here, which learns in the next step.

        Returns:
            The losses per sample of each exit here, [batch] each.
        """
        inputs, targets = self._on_device(inputs, targets)
        if self._config.method == "joint":
            return self._joint_step(inputs, targets, settings)
        losses: list[Tensor] = []
        for index, worker in enumerate(self.workers):
            inputs = worker.forward(inputs, settings)
            if index == len(self.workers) - 1 and self.links.next is not None:
                self.links.next.send(tensors=[inputs, targets])  # travels while this process goes on
                self.finish()
            exit = worker.run_exit(targets, self._loss, settings)
            losses.append(exit.losses)
            if index == 0 and self.links.previous is not None and settings.update_critics:
                taught = [exit.output] if settings.distill else []
                self.links.previous.send({"means": self.known_means}, [exit.losses, *taught])
            worker.backward(settings)
            if index > 0 and settings.update_critics:
                self.workers[index - 1].update_critic(*exit)
        return losses

    def _joint_step(self, inputs: Tensor, targets: Tensor, settings: StepSettings) -> list[Tensor]:
        """Deep supervision: everything learns from the sum of all exits' losses (Lee et al. 2015, arXiv 1409.5185)."""
        losses: list[Tensor] = []
        for worker in self.workers:
            inputs, exit_losses = worker.forward_jointly(inputs, targets, self._loss, settings)
            losses.append(exit_losses)
        torch.stack(losses).mean(1).sum().backward()  # type: ignore[no-untyped-call]
        for worker in self.workers:
            worker.learn_jointly(settings)
        return [exit_losses.detach() for exit_losses in losses]

    def finish(self) -> None:
        """Let the last critic here learn from the step before, whose next exit is in the next process."""
        if self.links.next is not None and self.workers[-1].awaits_exit:
            note, tensors = self.links.next.receive()
            self._later_means = note["means"]
            losses, *taught = (tensor.to(self._config.device) for tensor in tensors)
            self.workers[-1].update_critic(taught[0] if taught else None, losses)

    @property
    def first_exit(self) -> int | None:
        """The number of the first exit here; None where the network has no critics."""
        first = self.workers[0]
        return None if first.index == 0 and first.critic is None else first.index

    @property
    def known_means(self) -> list[float]:
        """Mean training losses of the exits from the first one here on; those of other processes a little late."""
        return [*self.means, *self._later_means]

    def evaluate(self, split: Split | None, loss: Loss | None = None) -> ExitScores:
        """Accuracy and loss of the exits here, from one pass over a split, which the process without source reads.

        `loss` is per sample, by default that of `default_loss`.

        Raises:
            DataError: the split has no samples.
        """
        sheet = ScoreSheet(loss)
        batches = self._received() if split is None else split.batches(EVALUATION_BATCH)
        # no_grad, not inference_mode: what a module keeps for later calls must be fit for training
        with evaluation_mode(self._modules), torch.no_grad(), self._config.autocast():
            for batch in batches:
                inputs, targets = self._on_device(*batch)
                outputs = []
                for worker in self.workers:
                    inputs = packed(worker.group(inputs))
                    outputs.append(inputs if worker.critic is None else worker.critic(inputs))
                if self.links.next is not None:
                    self.links.next.send(tensors=[inputs, targets])
                sheet.add(outputs, targets)
        if self.links.next is not None:
            self.links.next.send()
        return sheet.result()

    def agreement(self, inputs: Tensor, targets: Tensor) -> list[GroupAgreement]:
        """Of local and true gradients, on one batch, in the precision of training; all groups must be here."""
        critics = [worker.critic for worker in self.workers if worker.critic is not None]
        network = LocalCriticNetwork([worker.group for worker in self.workers], critics)
        with self._config.autocast():
            return measure_agreement(
                network, *self._on_device(inputs, targets), loss=self._loss, seed=self._config.seed
            )

    def tensors(self) -> dict[str, Tensor]:
        """All that training changes here, under its names in a checkpoint."""
        return {name: tensor for worker in self.workers for name, tensor in worker.tensors().items()}

    @property
    def replicas(self) -> int:
        """Pipelines side by side, as far as this process feeds them."""
        return len(self.links.first_ranks) + 1

    @property
    def seconds_waited(self) -> float:
        """For other processes, since training began."""
        return sum(link.seconds_waited for link in self.links.all)

    def _received(self) -> Iterator[Batch]:
        assert self.links.source is not None
        while tensors := self.links.source.receive().tensors:
            inputs, targets = tensors
            yield inputs, targets

    def _own_share(self, inputs: Tensor, targets: Tensor) -> Batch:
        """The first of as many equal parts of a batch as there are replicas; the others are sent to theirs."""
        if self.replicas == 1:
            return inputs, targets
        share, rest = divmod(len(targets), self.replicas)
        if rest:
            raise TrainingError(
                f"a batch of {len(targets)} samples cannot be shared equally among {self.replicas} replicas; "
                "give a smaller --batch-size, or fewer --replicas"
            )
        parts = zip(torch.split(inputs, share), torch.split(targets, share), strict=True)
        own = next(parts)
        for link, part in zip(self.links.first_ranks, parts, strict=True):
            link.send(tensors=part)
        return own

    def _on_device(self, inputs: Tensor, targets: Tensor) -> Batch:
        device = self._config.device
        return inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
