"""One group with its critic and their optimisers: all that training changes of one part of a network.

In one process all groups of a network are trained side by side; in several, each process holds some of them. Nothing
here knows which.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from lctprune.config.training import ResolvedTrainConfig
from lctprune.network import Part
from lctprune.optim.optimizers import Optimizers, apply_gradients
from lctprune.optim.schedules import learning_rate
from lctprune.run_files import NETWORK_PREFIX
from lctprune.training.compilation import compiled
from lctprune.training.recomputation import Recomputed
from lctprune.training.recomputed_parts import RecomputedPart

AllReduce = Callable[[Iterable[nn.Parameter]], None]  # averages gradients over all replicas, in place


class StepSettings(NamedTuple):
    """The settings of one step, for all groups.

    Attributes:
        step: number of the step in the whole training, from 0.
        lr: learning rate.
        matching: m of the critics' objective.
        update_critics: whether critics are updated in this step.
        distill: weight w of the distance to the next exit's outputs in the critics' objective.
    """

    step: int
    lr: float
    matching: float
    update_critics: bool
    distill: float = 0.0


def step_settings(step: int, steps: int, config: ResolvedTrainConfig) -> StepSettings:
    """Return the settings of number `step` of all `steps` of a training."""
    progress = step / steps
    return StepSettings(
        step,
        learning_rate(progress, config),
        config.matching.at(progress),
        step % config.critic_period == 0,
        config.distill.at(progress),
    )


class GroupTrainer:
    """One group of a network, its critic and their optimisers.

    Args:
        part: group, on its device, and critic.
        config: settings of the training.
        replica: number of this copy of the pipeline, from 0; copies draw different dropout masks.
        all_reduce_gradients: gradient all-reduce over all replicas, if there are several.

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
    ) -> None:
        self.index, self.group, self.critic = part
        self.modules = nn.ModuleList([self.group] if self.critic is None else [self.group, self.critic])
        self.modules.zero_grad(set_to_none=True)
        self.part: Part = part
        if config.compile:
            self.part = self.index, compiled(self.group), None if self.critic is None else compiled(self.critic)
        self._optimizers = Optimizers(self.group, self.critic, config)
        self._config, self._replica, self._all_reduce_gradients = config, replica, all_reduce_gradients

    def recompute(self, parts: Sequence[RecomputedPart]) -> None:
        """Let steps run the group in parts, each a second time before its backward pass."""
        group = Recomputed(parts, is_last=self.critic is None)
        self.part = self.index, cast(nn.Module, group), self.critic

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
        if module is None or optimizer is None:
            return
        if self._all_reduce_gradients is not None:
            self._all_reduce_gradients(module.parameters())
        apply_gradients(optimizer, settings.lr)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that training changes, under its names in a checkpoint."""
        states = {f"{optimizer_prefix(self.index)}{name}": each for name, each in self._optimizers.tensors().items()}
        for prefix, module in self._prefixes.items():
            states |= {f"{prefix}{name}": each for name, each in module.state_dict().items()}
        return states

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` returned; names of other groups are ignored."""
        for prefix, module in self._prefixes.items():
            module.load_state_dict(_below(prefix, tensors))
        if states := _below(optimizer_prefix(self.index), tensors):
            self._optimizers.load_tensors(states)

    @property
    def _prefixes(self) -> dict[str, nn.Module]:
        """Group and critic by what their names in a checkpoint begin with."""
        prefixes = {f"{NETWORK_PREFIX}groups.{self.index}.": self.group}
        return prefixes if self.critic is None else {**prefixes, f"{NETWORK_PREFIX}critics.{self.index}.": self.critic}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_prefix(index: int) -> str:
    """Return what the names of group `index`'s optimiser states begin with in a checkpoint."""
    return f"optimizer.{index}."


def tensors_of(index: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select group `index`'s tensors from a checkpoint."""
    own = tuple(f"{NETWORK_PREFIX}{part}.{index}." for part in ("groups", "critics")) + (optimizer_prefix(index),)
    return {name: tensor for name, tensor in tensors.items() if name.startswith(own)}
