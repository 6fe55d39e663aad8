"""One group with its critic and their optimisers: all that training changes of one part of a network.

In one process all groups of a network are trained side by side; in several, each process holds some of them. Nothing
here knows which.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from lctprune.config.training import ResolvedTrainConfig
from lctprune.network import Part
from lctprune.optim.optimizers import Optimizers, apply_gradients
from lctprune.optim.schedules import learning_rate
from lctprune.run_files import NETWORK_PREFIX
from lctprune.training.averaging import Averages
from lctprune.training.compilation import compiled
from lctprune.training.loss_scaling import LossScale
from lctprune.training.recomputation import Recomputed
from lctprune.training.recomputed_parts import RecomputedPart

LIVE_PREFIX = "live."  # in a checkpoint, of weights as they learn, where those of the network are averaged
SCALE_PREFIX = "loss_scale."  # in a checkpoint, of the scale of losses
AllReduce = Callable[[Iterable[nn.Parameter]], None]  # averages gradients over all replicas, in place


class StepSettings(NamedTuple):
    """The settings of one step, for all groups.

    Attributes:
        step: number of the step in the whole training, from 0.
        lr: learning rate.
        matching: m of the critics' objective.
        update_critics: whether critics are updated in this step.
        distill: weight w of the distance to the next exit's outputs in the critics' objective.
        update: number of the update of weights that the step belongs to, from 0.
        learns: whether weights change after this step, in which the gradients of enough batches are there.
    """

    step: int
    lr: float
    matching: float
    update_critics: bool
    distill: float = 0.0
    update: int = 0
    learns: bool = True


def step_settings(step: int, steps: int, config: ResolvedTrainConfig) -> StepSettings:
    """Return the settings of number `step` of all `steps` of a training."""
    progress = step / steps
    update = update_number(step, steps, config)
    return StepSettings(
        step,
        learning_rate(progress, config),
        config.matching.at(progress),
        update % config.critic_period == 0,
        config.distill.at(progress),
        update,
        update != update_number(step + 1, steps, config),
    )


def update_number(step: int, steps: int, config: ResolvedTrainConfig) -> int:
    """Return the number of the update of weights that a step belongs to, from 0.

    `config.accumulate` steps make an update; those at the end of an epoch that are fewer make none.
    """
    if config.accumulate == 1:
        return step
    per_epoch = steps // config.epochs
    epoch, index = divmod(step, per_epoch)
    return epoch * (per_epoch // config.accumulate) + index // config.accumulate


class GroupTrainer:
    """One group of a network, its critic and their optimisers.

    Args:
        part: group, on its device, and critic.
        config: settings of the training.
        replica: number of this copy of the pipeline, from 0; copies draw different dropout masks.
        all_reduce_gradients: gradient all-reduce over all replicas, if there are several.
        loss_scale: scale of the losses of all groups in this process, if there is one.

    Attributes:
        index: number of the group, from 0.
        modules: group and critic.
        part: group and critic as a step runs them, compiled if `config.compile` asks for it.
    """

    def __init__(
        self,
        part: Part,
        config: ResolvedTrainConfig,
        *,
        replica: int = 0,
        all_reduce_gradients: AllReduce | None = None,
        loss_scale: LossScale | None = None,
    ) -> None:
        self.index, self.group, self.critic = part
        self.modules = nn.ModuleList([self.group] if self.critic is None else [self.group, self.critic])
        self.modules.zero_grad(set_to_none=True)
        self.loss_scale = loss_scale
        self.part = self._scaled(part)
        if config.compile:
            critic = None if self.critic is None else compiled(self.critic)
            self.part = self._scaled((self.index, compiled(self.group), critic))
        self._optimizers = Optimizers(self.group, self.critic, config)
        parts = {"group": self.group} if self.critic is None else {"group": self.group, "critic": self.critic}
        self._averages = Averages(parts, config.ema) if config.ema else None
        self._config, self._replica, self._all_reduce_gradients = config, replica, all_reduce_gradients

    def recompute(self, parts: Sequence[RecomputedPart]) -> None:
        """Let steps run the group in parts, each a second time before its backward pass."""
        group = Recomputed(parts, is_last=self.critic is None)
        self.part = self._scaled((self.index, cast(nn.Module, group), self.critic))

    def _scaled(self, part: Part) -> Part:
        """Scale the gradient of the loss, where losses are scaled, at the module that makes the exit's output."""
        if self.loss_scale is None:
            return part
        index, group, critic = part
        scaled = self.loss_scale.scaled
        return (index, scaled(group), None) if critic is None else (index, group, scaled(critic))

    def seed(self, part: Literal["group", "critic"], settings: StepSettings) -> None:
        """Seed the random generator for one module in one step.

        Dropout masks then depend on which module runs in which step, not on what else a process runs.
        """
        text = f"{self._config.seed} {settings.step} {self.index} {part} {self._replica}"
        seed = zlib.crc32(text.encode())
        # not torch.manual_seed, which takes a millisecond to queue a call for each kind of device that is not in use
        torch.default_generator.manual_seed(seed)
        if (kind := torch.device(self._config.device).type) != "cpu":
            torch.get_device_module(kind).manual_seed(seed)

    def learn(self, part: Literal["group", "critic"], settings: StepSettings) -> None:
        """Let the group or the critic learn from its gradients, and free these."""
        module, optimizer = (
            (self.group, self._optimizers.group) if part == "group" else (self.critic, self._optimizers.critic)
        )
        if module is None or optimizer is None or not settings.learns:
            return
        if self._all_reduce_gradients is not None:
            self._all_reduce_gradients(module.parameters())
        if self.loss_scale is not None:
            self.loss_scale.unscale(optimizer)
        if self._config.accumulate > 1:
            gradients = [each.grad for each in module.parameters() if each.grad is not None]
            torch._foreach_div_(gradients, self._config.accumulate)
        if self._config.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), self._config.clip_grad_norm)
        apply_gradients(optimizer, settings.lr, None if self.loss_scale is None else self.loss_scale.take_step)
        if self._averages is not None:
            self._averages.update(part, settings.update)

    def drop_gradients(self) -> None:
        """Leave out gradients that too few batches gave for an update."""
        self.modules.zero_grad(set_to_none=True)

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which group and critic have their averaged weights, if `config.ema` asks for any."""
        return nullcontext() if self._averages is None else self._averages.in_place()

    def keep_averages(self) -> None:
        """Give group and critic their averaged weights for good, once training is over."""
        if self._averages is not None:
            self._averages.exchange()

    def tensors(self) -> dict[str, Tensor]:
        """Return all that training changes, under its names in a checkpoint."""
        states = {f"{optimizer_prefix(self.index)}{name}": each for name, each in self._optimizers.tensors().items()}
        if self.loss_scale is not None:
            states[f"{SCALE_PREFIX}{self.index}"] = self.loss_scale.state()
        with self.averaged():  # what is evaluated and exported; training goes on from the others
            states |= self._weights()
        return states if self._averages is None else states | _renamed(self._weights(), NETWORK_PREFIX, LIVE_PREFIX)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` returned; names of other groups are ignored."""
        self._load_weights(tensors)
        if self._averages is not None:
            self._averages.restart()
            if live := _below(LIVE_PREFIX, tensors):
                self._load_weights({f"{NETWORK_PREFIX}{name}": each for name, each in live.items()})
        if states := _below(optimizer_prefix(self.index), tensors):
            self._optimizers.load_tensors(states)
        scale = tensors.get(f"{SCALE_PREFIX}{self.index}")
        if self.loss_scale is not None and scale is not None:
            self.loss_scale.load(scale)

    def _weights(self) -> dict[str, Tensor]:
        return {
            f"{prefix}{name}": tensor
            for prefix, module in self._prefixes.items()
            for name, tensor in module.state_dict().items()
        }

    def _load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        for prefix, module in self._prefixes.items():
            module.load_state_dict(_below(prefix, tensors))

    @property
    def _prefixes(self) -> dict[str, nn.Module]:
        """Group and critic by what their names in a checkpoint begin with."""
        prefixes = {f"{NETWORK_PREFIX}groups.{self.index}.": self.group}
        return prefixes if self.critic is None else {**prefixes, f"{NETWORK_PREFIX}critics.{self.index}.": self.critic}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _renamed(tensors: Mapping[str, Tensor], before: str, after: str) -> dict[str, Tensor]:
    return {f"{after}{name.removeprefix(before)}": tensor for name, tensor in tensors.items()}


def optimizer_prefix(index: int) -> str:
    """Return what the names of group `index`'s optimiser states begin with in a checkpoint."""
    return f"optimizer.{index}."


def tensors_of(index: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select group `index`'s tensors from a checkpoint."""
    prefixes = (
        f"{prefix}{part}.{index}." for prefix in (NETWORK_PREFIX, LIVE_PREFIX) for part in ("groups", "critics")
    )
    own = (*prefixes, optimizer_prefix(index))
    scale = f"{SCALE_PREFIX}{index}"
    return {name: tensor for name, tensor in tensors.items() if name.startswith(own) or name == scale}
