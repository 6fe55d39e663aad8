"""What each process of benchmarks/pipeline.py does: torchrun pipeline_ranks.py JOB SETTINGS.json RESULT.json."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from step import peak_rss_bytes, peak_saved_bytes, rss_bytes, whole_stage
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel

import lctprune as lct
from lctprune.config.training import TrainConfig
from lctprune.data.splits import Batch
from lctprune.measure.step_costs import critic_time_ns, group_seconds, output_bytes
from lctprune.optim.optimizers import Optimizers, apply_gradients
from lctprune.training.distributed.messages import Channel
from lctprune.training.distributed.pipeline import Pipeline, share_groups
from lctprune.training.distributed.process_group import ProcessGroup, process_group
from lctprune.training.worker import StepSettings, step_settings

WARMUP = 2
SETTINGS = StepSettings(position=0, lr=0.01, matching=0.0, update_critics=True, distill=0.25)
MICROBATCHES = (1, 4, 8)


class Repeated:
    """A split that gives the same batch again and again."""

    def __init__(self, batch: Batch, times: int) -> None:
        self.batch, self.times = batch, times

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        return itertools.repeat(self.batch, self.times)


def recipe_of(settings: dict[str, Any], **changes: Any) -> lct.NetworkConfig:
    return lct.NetworkConfig(**{**settings["network"], **changes})


def built(recipe: lct.NetworkConfig, config: TrainConfig | None = None) -> lct.LocalCriticNetwork:
    torch.manual_seed(0)
    return lct.build_network(recipe, training=config).to(memory_format=torch.channels_last).train()


def built_everywhere(recipe: lct.NetworkConfig, group: ProcessGroup, config: TrainConfig) -> lct.LocalCriticNetwork:
    """With the cuts that rank 0 measures for that training."""
    network = built(recipe, config) if group.rank == 0 else None
    found = group.share(network and network.recipe and network.recipe.to_dict())
    return network or built(lct.NetworkConfig(**found))


def random_batch(recipe: lct.NetworkConfig, size: int) -> Batch:
    torch.manual_seed(0)
    targets = torch.randint(recipe.num_outputs, (size,))
    if recipe.vocabulary:
        return torch.randint(1, recipe.vocabulary, (size, recipe.steps or 1)), targets
    images = torch.randn(size, recipe.in_channels, recipe.image_size, recipe.image_size)
    return images.to(memory_format=torch.channels_last), targets


def timed(steps: int, step: Callable[[], object]) -> float:
    for _ in range(WARMUP):
        step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def on_first(group: ProcessGroup, measure: Callable[[], float], *, threads: int = 1) -> Callable[[], list[Any]]:
    """Rank 0 measures while the others wait."""

    def run() -> list[Any]:
        if group.rank:
            return []
        torch.set_num_threads(threads)
        seconds = measure()
        torch.set_num_threads(1)
        return [{"seconds": seconds}]

    return run


def at_once(measure: Callable[[], float], pipeline: Pipeline) -> Callable[[], list[Any]]:
    """All processes measure at the same time: what they take from each other without a word between them."""

    def run() -> list[Any]:
        return pipeline.gather({"seconds": measure()}) or []

    return run


def alone(network: lct.LocalCriticNetwork, config: TrainConfig, batch: Batch, steps: int) -> Callable[[], float]:
    stage = whole_stage(network, config)

    def measure() -> float:
        with config.autocast():
            return timed(steps, lambda: stage.step(*batch, SETTINGS))

    return measure


def decoupled(
    network: lct.LocalCriticNetwork, pipeline: Pipeline, config: TrainConfig, batch: Batch, steps: int
) -> Callable[[], list[Any]]:
    """Seconds and waiting per step of each process, in the steady state."""
    shares = share_groups(len(network.groups), len(network.groups))
    stage = pipeline.stage(network, shares, config, lct.cross_entropy)

    def run() -> list[Any]:
        split = Repeated(batch, WARMUP + steps) if pipeline.is_first else None
        start, waited = 0.0, 0.0
        with config.autocast():
            for index, (inputs, targets) in enumerate(stage.batches(split, seed=0)):  # type: ignore[arg-type]
                stage.step(inputs, targets, SETTINGS)
                if index == WARMUP - 1:
                    start, waited = time.perf_counter(), stage.seconds_waited
            seconds = (time.perf_counter() - start) / steps
            waited = (stage.seconds_waited - waited) / steps
            stage.finish()
        return pipeline.gather({"seconds": seconds, "waited": waited}) or []

    return run


class ContiguousGradient(torch.autograd.Function):
    """The same, with a contiguous gradient."""

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
    network: lct.LocalCriticNetwork, group: ProcessGroup, config: TrainConfig, batch: Batch, steps: int, micro: int
) -> Callable[[], list[Any]]:
    """The same groups by backpropagation, on torch.distributed.pipelining's schedule."""
    place = {"is_first": group.rank == 0, "is_last": group.rank == group.size - 1}
    module = PipelinedGroup(network.groups[group.rank], **place)
    stage = PipelineStage(module, group.rank, group.size, torch.device("cpu"), group=dist.new_group())
    kind = ScheduleGPipe if micro < group.size else Schedule1F1B  # 1F1B wants as many microbatches as stages
    schedule = kind(stage, micro, loss_fn=nn.functional.cross_entropy)

    def backward() -> None:
        if group.rank == 0:
            schedule.step(batch[0])
        else:
            schedule.step(target=batch[1])

    return together(group, module, config, backward, steps)


def data_parallel(
    network: lct.LocalCriticNetwork, group: ProcessGroup, config: TrainConfig, batch: Batch, steps: int
) -> Callable[[], list[Any]]:
    """The whole network in each process, on its part of the batch."""
    model = DistributedDataParallel(nn.Sequential(*network.groups), process_group=dist.new_group())
    inputs, targets = (part.chunk(group.size)[group.rank] for part in batch)

    def backward() -> None:
        nn.functional.cross_entropy(model(inputs).float(), targets).backward()

    return together(group, model, config, backward, steps)


def together(
    group: ProcessGroup, module: nn.Module, config: TrainConfig, backward: Callable[[], None], steps: int
) -> Callable[[], list[Any]]:
    """All processes take steps of backpropagation, each with the optimiser of local critics for its own module."""
    optimizers = Optimizers(module, None, config).all.values()

    def step() -> None:
        with config.autocast():
            backward()
        for optimizer in optimizers:
            apply_gradients(optimizer, SETTINGS.lr)

    def run() -> list[Any]:
        seconds = timed(steps, step)
        return [{"seconds": seconds}] if group.rank == 0 else []

    return run


def speed(settings: dict[str, Any], group: ProcessGroup) -> dict[str, Any]:
    """Seconds per step of every arrangement, taken in turns."""
    config = TrainConfig(**settings["training"])
    steps, repeats = settings["steps"], settings["repeats"]
    batch = random_batch(recipe_of(settings), config.batch_size)
    runs: dict[str, Callable[[], list[Any]]] = {}
    pipeline = Pipeline(group, groups=group.size)
    groups: dict[str, list[float]] = {}
    critics: dict[str, float] = {}
    sent: list[int] = []
    for critic in settings["critics"]:
        recipe = recipe_of(settings, critic=critic, groups=group.size, balance="time")
        network = built_everywhere(recipe, group, config)
        runs[f"local critics, {critic}, {group.size} processes"] = decoupled(network, pipeline, config, batch, steps)
        network = built(network.recipe or recipe)
        measure = alone(network, config, batch, steps)
        runs[f"local critics, {critic}, 1 process, 1 thread"] = on_first(group, measure)
        if group.size == settings["cores"]:
            runs[f"local critics, {critic}, all of it in each process"] = at_once(measure, pipeline)
        if group.rank == 0:
            groups[critic] = group_seconds(network, *batch, config, loss=lct.cross_entropy)
            critics[critic] = critic_seconds(network, batch, config)
            sizes = output_bytes(network, batch[0], precision=config.precision)[:-1]
            sent = [size * config.batch_size for size in sizes]
    whole = built(recipe_of(settings, groups=1))
    for threads in (1, 2):
        name = f"backpropagation, 1 process, {threads} thread{'s' * (threads > 1)}"
        runs[name] = on_first(group, alone(whole, config, batch, steps), threads=threads)
    if settings["peers"]:
        for micro in MICROBATCHES:
            stages = built_everywhere(recipe_of(settings, groups=group.size, balance="time"), group, config)
            runs[f"{'1F1B' if micro > 1 else 'GPipe'}, {micro} microbatches"] = one_forward_one_backward(
                stages, group, config, batch, steps, micro
            )
        runs["DistributedDataParallel"] = data_parallel(
            built(recipe_of(settings, groups=1)), group, config, batch, steps
        )
    results: dict[str, list[Any]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            dist.barrier()
            results[name].append(run())
    link = loopback(group)
    pipeline.close()
    return {"runs": results, "groups": groups, "critics": critics, "sent": sent, "link": link}


def critic_seconds(network: lct.LocalCriticNetwork, batch: Batch, config: TrainConfig) -> float:
    """What a critic adds to a step: the mean over all."""
    times, x = [], batch[0][:1]
    with torch.no_grad():
        for group, critic in zip(network.groups, network.critics, strict=False):
            x = group.eval()(x)
            times.append(critic_time_ns(critic, tuple(x.shape[1:]), config) / 1e9)
    network.train()
    return sum(times) / len(times)


def loopback(group: ProcessGroup) -> dict[str, float]:
    """Latency and bandwidth between ranks 0 and 1, from messages of two sizes there and back."""
    seconds = {}
    if group.rank < 2:
        channel = Channel(1 - group.rank, tag=99)
        for size in (1, 2**24):
            payload, times = torch.zeros(size, dtype=torch.uint8), []
            for _ in range(12):
                start = time.perf_counter()
                if group.rank == 0:
                    channel.send(tensors=[payload])
                channel.receive()
                if group.rank == 1:
                    channel.send(tensors=[payload])
                times.append((time.perf_counter() - start) / 2)
            seconds[size] = sorted(times)[len(times) // 2]
        channel.flush()
    dist.barrier()
    return {"latency_s": seconds[1], "bytes_per_s": 2**24 / (seconds[2**24] - seconds[1])} if seconds else {}


def equal(settings: dict[str, Any], group: ProcessGroup) -> dict[str, Any]:
    """Whether the processes hold, after some steps, what one process does, to the bit: by settings."""
    found = {}
    pipeline = Pipeline(group, groups=4)
    shares = share_groups(4, group.size)
    here = TrainConfig().resolved().precision  # without bf16 units, PyTorch has no LSTM in bf16
    for precision, matching, period in itertools.product(dict.fromkeys(("fp32", here)), (0.0, 0.5, 1.0), (1, 3)):
        changes = {"precision": precision, "matching": matching, "critic_period": period, "lr": 0.01}
        config = TrainConfig(**{**settings["training"], **changes})
        batch = random_batch(recipe_of(settings), settings["batch_size"])
        stages = [pipeline.stage(built(recipe_of(settings)), shares, config, lct.cross_entropy)]
        if group.rank == 0:
            stages.append(whole_stage(built(recipe_of(settings)), config))
        for stage in stages:
            split = Repeated(batch, settings["steps"]) if pipeline.is_first else None
            with config.autocast():
                for position, (inputs, targets) in enumerate(stage.batches(split, seed=0)):  # type: ignore[arg-type]
                    stage.step(inputs, targets, step_settings(position, settings["steps"], config))
                stage.finish()
        tensors = pipeline.collect(stages[0])
        if tensors is not None:
            expected = stages[1].tensors()
            same = expected.keys() == tensors.keys()
            same = same and all(torch.equal(tensor, tensors[name]) for name, tensor in expected.items())
            found[f"{precision}, matching {matching}, critic period {period}"] = same
        dist.barrier()
    pipeline.close()
    return found


def memory(settings: dict[str, Any], group: ProcessGroup | None) -> list[Any]:
    """Of each process: saved tensors with parameters and optimiser states, and the growth of its peak RSS."""
    config = TrainConfig(**settings["training"])
    before = rss_bytes()
    groups = group.size if group else 1
    pipeline = Pipeline(group, groups=groups)
    recipe = recipe_of(settings, groups=groups)
    network = built_everywhere(recipe, group, config) if group else built(recipe)
    stage = pipeline.stage(network, share_groups(groups, groups), config, lct.cross_entropy)
    del network
    batch = random_batch(recipe, config.batch_size) if pipeline.is_first else None
    own = nn.ModuleList(worker.modules for worker in stage.workers)

    def steps() -> None:
        split = Repeated(batch, 3) if batch else None
        with config.autocast():
            for inputs, targets in stage.batches(split, seed=0):  # type: ignore[arg-type]
                stage.step(inputs, targets, SETTINGS)
            stage.finish()

    steps()
    peak = peak_rss_bytes()
    saved = peak_saved_bytes(steps, own)
    state = sum(tensor.numel() * tensor.element_size() for tensor in stage.tensors().values())
    notes = pipeline.gather({"saved": saved, "state": state, "rss": peak - before}) or []
    pipeline.close()
    return notes


def main() -> None:
    job, settings, result = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    torch.set_num_threads(1)
    with process_group(timeout_s=60, on_lost=lambda _: os._exit(1)) as group:
        found = {"speed": speed, "equal": equal, "memory": memory}[job](settings, group)  # type: ignore[operator]
    if group is None or group.rank == 0:
        result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
