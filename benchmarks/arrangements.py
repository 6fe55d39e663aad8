"""The arrangements that pipeline.py compares: who computes what, in which process. Each gives seconds per step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from common import STEP, build, whole_stage
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel

import lctprune as lct
from lctprune.config.training import ResolvedTrainConfig
from lctprune.data.splits import Batch
from lctprune.optim.optimizers import Optimizers, apply_gradients
from lctprune.training.distributed.pipeline import Pipeline, assign_groups
from lctprune.training.distributed.process_group import ProcessGroup

WARMUP = 2
MICROBATCHES = (1, 4, 8)
Run = Callable[[], list[Any]]  # rank 0 gets one note per process, the others nothing


class Repeated(lct.Split):
    """A split that gives the same batch again and again."""

    def __init__(self, batch: Batch, times: int) -> None:
        self.batch, self.times = batch, times

    @property
    def targets(self) -> Tensor:
        return self.batch[1].repeat(self.times)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        return itertools.repeat(self.batch, self.times)

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        return self.batches(batch_size)


def recipe_of(settings: dict[str, Any], **changes: Any) -> lct.NetworkConfig:
    """Return the settings of the network, with changes."""
    return lct.NetworkConfig(**{**settings["network"], **changes})


def build_everywhere(
    recipe: lct.NetworkConfig, group: ProcessGroup, config: ResolvedTrainConfig
) -> lct.LocalCriticNetwork:
    """Build a network in every process, with the cuts that rank 0 measures for that training."""
    network = build(recipe, config) if group.rank == 0 else None
    found = group.broadcast(network and network.recipe and network.recipe.to_dict())
    return network or build(lct.NetworkConfig(**found))


def timed(steps: int, step: Callable[[], object]) -> float:
    """Measure the mean seconds of a step, after some others."""
    for _ in range(WARMUP):
        step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def on_first(group: ProcessGroup, measure: Callable[[], float], *, threads: int = 1) -> Run:
    """Let rank 0 measure while the others wait."""

    def run() -> list[Any]:
        if group.rank:
            return []
        torch.set_num_threads(threads)
        seconds = measure()
        torch.set_num_threads(1)
        return [{"seconds": seconds}]

    return run


def at_once(measure: Callable[[], float], pipeline: Pipeline) -> Run:
    """Let all processes measure at the same time: what they take from each other without a word between them."""

    def run() -> list[Any]:
        return pipeline.gather({"seconds": measure()}) or []

    return run


def alone(
    network: lct.LocalCriticNetwork, config: ResolvedTrainConfig, batch: Batch, steps: int
) -> Callable[[], float]:
    """Train all groups in one process."""
    stage = whole_stage(network, config)

    def measure() -> float:
        with config.autocast():
            return timed(steps, lambda: stage.step(*batch, STEP))

    return measure


def decoupled(
    network: lct.LocalCriticNetwork, pipeline: Pipeline, config: ResolvedTrainConfig, batch: Batch, steps: int
) -> Run:
    """Train a group per process: seconds and waiting per step of each, in the steady state."""
    shares = assign_groups(len(network.groups), len(network.groups))
    stage = pipeline.stage(network, shares, config, lct.cross_entropy)

    def run() -> list[Any]:
        split = Repeated(batch, WARMUP + steps) if pipeline.is_first else None
        start, waited = 0.0, 0.0
        with config.autocast():
            for index, (inputs, targets) in enumerate(stage.batches(split, seed=0)):
                stage.step(inputs, targets, STEP)
                if index == WARMUP - 1:
                    start, waited = time.perf_counter(), stage.seconds_waited
            seconds = (time.perf_counter() - start) / steps
            waited = (stage.seconds_waited - waited) / steps
            stage.flush_critic_update()
        return pipeline.gather({"seconds": seconds, "waited": waited}) or []

    return run


class ContiguousGradient(torch.autograd.Function):
    """The identity, with a contiguous gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


class PipelinedGroup(nn.Module):
    """A stage for torch.distributed.pipelining, whose messages must be contiguous: maps as [n, h, w, c]."""

    def __init__(self, module: nn.Module, *, is_first: bool, is_last: bool) -> None:
        super().__init__()
        self.module, self.is_first, self.is_last = module, is_first, is_last

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_first:
            x = ContiguousGradient.apply(x)
        if x.dim() == 4 and not self.is_first:
            x = x.permute(0, 3, 1, 2)
        x = self.module(x)
        if x.dim() == 4 and not self.is_last:
            x = x.permute(0, 2, 3, 1)
        return x.contiguous()


def one_forward_one_backward(
    network: lct.LocalCriticNetwork,
    group: ProcessGroup,
    config: ResolvedTrainConfig,
    batch: Batch,
    steps: int,
    micro: int,
) -> Run:
    """Train the groups by backpropagation, on a schedule of torch.distributed.pipelining."""
    place = {"is_first": group.rank == 0, "is_last": group.rank == group.size - 1}
    module = PipelinedGroup(network.groups[group.rank], **place)
    stage = PipelineStage(module, group.rank, group.size, torch.device("cpu"), group=new_group())
    kind = ScheduleGPipe if micro < group.size else Schedule1F1B  # 1F1B wants as many microbatches as stages
    schedule = kind(stage, micro, loss_fn=nn.functional.cross_entropy)

    def backward() -> None:
        if group.rank == 0:
            schedule.step(batch[0])
        else:
            schedule.step(target=batch[1])

    return together(group, module, config, backward, steps)


def data_parallel(
    network: lct.LocalCriticNetwork, group: ProcessGroup, config: ResolvedTrainConfig, batch: Batch, steps: int
) -> Run:
    """Train the whole network in each process, on its part of the batch."""
    model = DistributedDataParallel(nn.Sequential(*network.groups), process_group=new_group())
    inputs, targets = (part.chunk(group.size)[group.rank] for part in batch)

    def backward() -> None:
        nn.functional.cross_entropy(model(inputs).float(), targets).backward()  # type: ignore[no-untyped-call]

    return together(group, model, config, backward, steps)


def together(
    group: ProcessGroup, module: nn.Module, config: ResolvedTrainConfig, backward: Callable[[], None], steps: int
) -> Run:
    """Take steps of backpropagation in all processes, each with the optimiser of local critics for its own module."""
    optimizers = Optimizers(module, None, config).all.values()

    def step() -> None:
        with config.autocast():
            backward()
        for optimizer in optimizers:
            apply_gradients(optimizer, STEP.lr)

    def run() -> list[Any]:
        seconds = timed(steps, step)
        return [{"seconds": seconds}] if group.rank == 0 else []

    return run


def new_group() -> dist.ProcessGroup:
    """Make a group of all processes, of which every process is a member."""
    group = dist.new_group()
    assert isinstance(group, dist.ProcessGroup)
    return group
