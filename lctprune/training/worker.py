"""One group with its critic and their optimisers: what a step of training does to them, wherever they are.

In one process a row of workers hands tensors on directly; in several, each process holds a part of the row. Nothing
here knows which.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.config.training import TrainConfig
from lctprune.losses import Distance, Loss, softened_distance
from lctprune.optim.optimizers import Optimizers, apply_gradients
from lctprune.optim.schedules import learning_rate, ramp_at
from lctprune.runs import NETWORK_PREFIX
from lctprune.training.compilation import compiled
from lctprune.update import Exit, GroupForward, backward_critic, backward_group, forward_group, run_exit
from lctprune.utils.modules import packed

Average = Callable[[Iterable[nn.Parameter]], None]  # makes gradients those of all replicas together


class StepSettings(NamedTuple):
    """What holds for all workers in one step.

    Attributes:
        position: of the step in the whole training, from 0.
        lr: learning rate.
        matching: m of the critics' objective.
        update_critics: whether critics learn in this step.
        distill: share of the critics' objective that is the distance to the next exit's outputs.
    """

    position: int
    lr: float
    matching: float
    update_critics: bool
    distill: float = 0.0


def step_settings(position: int, steps: int, config: TrainConfig) -> StepSettings:
    """Of step `position` of `steps` in all; `config` must be resolved."""
    progress = position / steps
    return StepSettings(
        position,
        learning_rate(progress, config),
        ramp_at(progress, "matching", config.matching),
        position % config.critic_period == 0,
        ramp_at(progress, "distill", config.distill),
    )


class Worker:
    """Group `index` of a network, with its critic and their optimisers.

    A step is, in this order: `forward`, `run_exit`, `backward`, and, once the next worker's exit is known,
    `update_critic`. The last may wait until after the `forward` of the next step.

    Args:
        index: of the group, from 0.
        group: the group, on its device.
        critic: None for the last group.
        config: resolved.
        distance: of a critic's output from the next exit's, where critics distil.
        replica: which of several copies of the pipeline this is; copies draw different dropout masks.
        average: of the gradients over all replicas, where there are several.
    """

    def __init__(
        self,
        index: int,
        group: nn.Module,
        critic: nn.Module | None,
        config: TrainConfig,
        *,
        distance: Distance = softened_distance,
        replica: int = 0,
        average: Average | None = None,
    ) -> None:
        self.index = index
        self.group, self.critic = group, critic
        self.modules = nn.ModuleList([group] if critic is None else [group, critic])
        self.modules.zero_grad(set_to_none=True)
        self._run_group = compiled(group) if config.compile else group
        self._run_critic = compiled(critic) if config.compile and critic is not None else critic
        self._optimizers = Optimizers(group, critic, config)
        self._config, self._distance, self._replica, self._average = config, distance, replica, average
        self._forward: GroupForward | None = None
        self._exit: Exit | None = None  # attached to the critic's graph
        self._waiting: tuple[Exit, StepSettings] | None = None  # of a step whose critic update is to come

    def forward(self, inputs: Tensor, settings: StepSettings) -> Tensor:
        """Equation 1: h_i, cut off from the group."""
        self._seed("group", settings)
        self._forward = forward_group(self._run_group, inputs, index=self.index)
        return packed(self._forward.boundary.detach())

    def run_exit(self, targets: Tensor, loss: Loss, settings: StepSettings) -> Exit:
        """Equation 3: the exit's output and L_i, detached."""
        assert self._forward is not None
        assert self._waiting is None
        self._seed("critic", settings)
        self._exit = run_exit(self._forward, self._run_critic, targets, loss)
        return self._exit.detached()

    def backward(self, settings: StepSettings) -> None:
        """Equations 5 and 6: the group learns, and its graph and gradients are freed."""
        assert self._forward is not None
        assert self._exit is not None
        is_waiting = self.critic is not None and settings.update_critics
        backward_group(self._forward, self._exit.losses, keep_critic_graph=is_waiting)
        self._waiting = (self._exit, settings) if is_waiting else None
        self._forward = self._exit = None
        if self._optimizers.group is not None:
            self._learn(self.group, self._optimizers.group, settings)

    def forward_jointly(
        self, inputs: Tensor, targets: Tensor, loss: Loss, settings: StepSettings
    ) -> tuple[Tensor, Tensor]:
        """h_i and L_i, [batch], both attached to the graphs of all groups so far: for joint training."""
        self._seed("group", settings)
        output = self._run_group(inputs)
        self._seed("critic", settings)
        return output, loss(output if self._run_critic is None else self._run_critic(output), targets)

    def learn_jointly(self, settings: StepSettings) -> None:
        """Group and critic learn from the gradients that they have."""
        for module, optimizer in ((self.group, self._optimizers.group), (self.critic, self._optimizers.critic)):
            if module is not None and optimizer is not None:
                self._learn(module, optimizer, settings)

    @property
    def awaits_exit(self) -> bool:
        """Whether `update_critic` is still to come."""
        return self._waiting is not None

    def update_critic(self, next_output: Tensor | None, next_losses: Tensor) -> None:
        """Equation 7: the critic learns from the next exit, in the step that awaits it.

        Args:
            next_output: [batch, outputs]; only needed where the step distils.
            next_losses: [batch].
        """
        assert self.critic is not None
        assert self._waiting is not None
        exit, settings = self._waiting
        self._waiting = None
        backward_critic(
            self.critic,
            exit,
            next_output,
            next_losses,
            matching=settings.matching,
            distill=settings.distill,
            distance=self._distance,
        )
        if self._optimizers.critic is not None:
            self._learn(self.critic, self._optimizers.critic, settings)

    def tensors(self) -> dict[str, Tensor]:
        """All that training changes, under its names in a checkpoint."""
        states = {f"{optimizer_prefix(self.index)}{name}": each for name, each in self._optimizers.tensors().items()}
        for part, module in self._parts.items():
            states |= {
                f"{NETWORK_PREFIX}{part}.{self.index}.{name}": each for name, each in module.state_dict().items()
            }
        return states

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave; names of other workers are passed over."""
        for part, module in self._parts.items():
            prefix = f"{NETWORK_PREFIX}{part}.{self.index}."
            module.load_state_dict(_below(prefix, tensors))
        if states := _below(optimizer_prefix(self.index), tensors):
            self._optimizers.load_tensors(states)

    @property
    def _parts(self) -> dict[str, nn.Module]:
        return {"groups": self.group} | ({} if self.critic is None else {"critics": self.critic})

    def _learn(self, module: nn.Module, optimizer: torch.optim.Optimizer, settings: StepSettings) -> None:
        if self._average is not None:
            self._average(module.parameters())
        apply_gradients(optimizer, settings.lr)

    def _seed(self, part: str, settings: StepSettings) -> None:
        """Dropout depends on what is run in which step, not on what else a process runs."""
        text = f"{self._config.seed} {settings.position} {self.index} {part} {self._replica}"
        torch.manual_seed(zlib.crc32(text.encode()))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_prefix(index: int) -> str:
    """What the names of worker `index`'s optimiser states begin with in a checkpoint."""
    return f"optimizer.{index}."


def tensors_of(index: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a checkpoint that are worker `index`'s."""
    own = tuple(f"{NETWORK_PREFIX}{part}.{index}." for part in ("groups", "critics")) + (optimizer_prefix(index),)
    return {name: tensor for name, tensor in tensors.items() if name.startswith(own)}
