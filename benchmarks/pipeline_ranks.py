"""What each process of benchmarks/pipeline.py does: torchrun pipeline_ranks.py JOB SETTINGS.json RESULT.json."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from arrangements import (
    MICROBATCHES,
    Repeated,
    Run,
    alone,
    at_once,
    build_everywhere,
    data_parallel,
    decoupled,
    on_first,
    one_forward_one_backward,
    recipe_of,
)
from common import STEP, build, random_batch, whole_stage
from memory_probe import peak_rss_bytes, peak_saved_bytes, rss_bytes
from torch import nn

import lctprune as lct
from lctprune.config.training import ResolvedTrainConfig
from lctprune.data.splits import Batch
from lctprune.measure.step_costs import critic_time_ns, group_seconds, output_bytes
from lctprune.training.distributed.messages import Channel
from lctprune.training.distributed.pipeline import Pipeline, assign_groups
from lctprune.training.distributed.process_group import ProcessGroup, process_group
from lctprune.training.group_trainer import step_settings


def speed(settings: dict[str, Any], group: ProcessGroup) -> dict[str, Any]:
    """Measure the seconds per step of every arrangement, taken in turns."""
    config = lct.TrainConfig(**settings["training"]).resolved()
    steps, repeats = settings["steps"], settings["repeats"]
    batch = random_batch(recipe_of(settings), config.batch_size)
    runs: dict[str, Run] = {}
    pipeline = Pipeline(group, groups=group.size)
    groups: dict[str, list[float]] = {}
    critics: dict[str, float] = {}
    sent: list[int] = []
    for critic in settings["critics"]:
        recipe = recipe_of(settings, critic=critic, groups=group.size, balance="time")
        network = build_everywhere(recipe, group, config)
        runs[f"local critics, {critic}, {group.size} processes"] = decoupled(network, pipeline, config, batch, steps)
        network = build(network.recipe or recipe)
        measure = alone(network, config, batch, steps)
        runs[f"local critics, {critic}, 1 process, 1 thread"] = on_first(group, measure)
        if group.size == settings["cores"]:
            runs[f"local critics, {critic}, all of it in each process"] = at_once(measure, pipeline)
        if group.rank == 0:
            groups[critic] = group_seconds(network, *batch, config, loss=lct.cross_entropy)
            critics[critic] = critic_seconds(network, batch, config)
            sizes = output_bytes(network, batch[0], precision=config.precision)[:-1]
            sent = [size * config.batch_size for size in sizes]
    whole = build(recipe_of(settings, groups=1))
    for threads in settings["threads"]:
        name = f"backpropagation, 1 process, {threads} thread{'s' * (threads > 1)}"
        runs[name] = on_first(group, alone(whole, config, batch, steps), threads=threads)
    if settings["peers"]:
        for micro in MICROBATCHES:
            stages = build_everywhere(recipe_of(settings, groups=group.size, balance="time"), group, config)
            runs[f"{'1F1B' if micro > 1 else 'GPipe'}, {micro} microbatches"] = one_forward_one_backward(
                stages, group, config, batch, steps, micro
            )
        runs["DistributedDataParallel"] = data_parallel(
            build(recipe_of(settings, groups=1)), group, config, batch, steps
        )
    results: dict[str, list[Any]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            dist.barrier()
            results[name].append(run())
    link = loopback(group)
    pipeline.close()
    return {"runs": results, "groups": groups, "critics": critics, "sent": sent, "link": link}


def critic_seconds(network: lct.LocalCriticNetwork, batch: Batch, config: ResolvedTrainConfig) -> float:
    """Measure what a critic adds to a step: the mean over all."""
    times, x = [], batch[0][:1]
    with torch.no_grad():
        for _, group, critic in network.parts():
            x = group.eval()(x)
            if critic is not None:
                times.append(critic_time_ns(critic, tuple(x.shape[1:]), config) / 1e9)
    network.train()
    return sum(times) / len(times)


def loopback(group: ProcessGroup) -> dict[str, float]:
    """Measure latency and bandwidth between ranks 0 and 1, by messages of two sizes there and back."""
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
    """Compare what the processes hold after some steps with one process, to the bit: whether equal, by settings."""
    found = {}
    pipeline = Pipeline(group, groups=4)
    shares = assign_groups(4, group.size)
    here = lct.TrainConfig().resolved().precision  # without bf16 units, PyTorch has no LSTM in bf16
    for precision, matching, period in itertools.product(dict.fromkeys(("fp32", here)), (0.0, 0.5, 1.0), (1, 3)):
        changes = {"precision": precision, "matching": matching, "critic_period": period, "lr": 0.01}
        config = lct.TrainConfig(**{**settings["training"], **changes}).resolved()
        batch = random_batch(recipe_of(settings), settings["batch_size"])
        stages = [pipeline.stage(build(recipe_of(settings)), shares, config, lct.cross_entropy)]
        if group.rank == 0:
            stages.append(whole_stage(build(recipe_of(settings)), config))
        for stage in stages:
            split = Repeated(batch, settings["steps"]) if pipeline.is_first else None
            with config.autocast():
                for position, (inputs, targets) in enumerate(stage.batches(split, seed=0)):
                    stage.step(inputs, targets, step_settings(position, settings["steps"], config))
                stage.flush_critic_update()
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
    """Measure saved tensors, parameters and optimiser states of each process, and the growth of its peak RSS."""
    config = lct.TrainConfig(**settings["training"]).resolved()
    before = rss_bytes()
    groups = group.size if group else 1
    pipeline = Pipeline(group, groups=groups)
    recipe = recipe_of(settings, groups=groups)
    network = build_everywhere(recipe, group, config) if group else build(recipe)
    stage = pipeline.stage(network, assign_groups(groups, groups), config, lct.cross_entropy)
    del network
    batch = random_batch(recipe, config.batch_size) if pipeline.is_first else None
    own = nn.ModuleList(trainer.modules for trainer in stage.trainers)

    def steps() -> None:
        split = Repeated(batch, 3) if batch else None
        with config.autocast():
            for inputs, targets in stage.batches(split, seed=0):
                stage.step(inputs, targets, STEP)
            stage.flush_critic_update()

    steps()
    peak = peak_rss_bytes()
    saved = peak_saved_bytes(steps, own)
    state = sum(tensor.numel() * tensor.element_size() for tensor in stage.tensors().values())
    notes = pipeline.gather({"saved": saved, "state": state, "rss": peak - before}) or []
    pipeline.close()
    return notes


JOBS: dict[str, Callable[[dict[str, Any], Any], Any]] = {"speed": speed, "equal": equal, "memory": memory}


def main() -> None:
    job, settings, result = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    torch.set_num_threads(1)
    with process_group(timeout_s=60, on_lost=lambda _: os._exit(1)) as group:
        found = JOBS[job](settings, group)
    if group is None or group.rank == 0:
        result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
