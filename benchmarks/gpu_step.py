"""Time and memory of a training step, on the device of `gpu.py`."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from common import STEP, random_batch
from gpu_networks import NETWORKS, QUICK, Network, build
from gpu_report import Measurement, Scale
from torch import Tensor

import lctprune as lct
from lctprune.optim.optimizers import resolved_for
from lctprune.training.accelerator import tuned_for
from lctprune.training.compilation import compilation
from lctprune.training.distributed.pipeline import Pipeline

METHODS = ("backprop", "local-critic", "joint")  # backprop first: the others are compared with it
MODES: dict[str, dict[str, Any]] = {
    "eager": {},
    "--recompute auto": {"recompute": "auto"},
    "--compile": {"compile": True},
    "--recompute on": {"recompute": "on"},
}
WARMUP, STEPS = 3, 4  # steps before the clock, and between two readings of it


def step_part(scale: Scale) -> list[Measurement]:
    """Return what to measure of steps: eager ones of all networks first, as compiling takes long."""
    networks = QUICK if scale.quick else NETWORKS
    turns = 2 if scale.quick else 10
    return [
        Measurement(f"{name}, {mode}", functools.partial(measure_steps, network, MODES[mode], scale.device, turns))
        for mode in MODES
        if scale.device == "cuda" or "compile" not in MODES[mode]
        for name, network in networks.items()
    ]


def precompile_part(scale: Scale) -> Iterator[Measurement]:
    """Yield the compilation of every step, all at once, each in a process: the step part then finds it cached."""
    if scale.device != "cuda":
        return
    networks = QUICK if scale.quick else NETWORKS
    tasks = {f"{name}, {method}": (network, method) for name, network in networks.items() for method in METHODS}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(tasks), mp_context=context) as pool:
        futures = {name: pool.submit(compile_step, *task, scale.device) for name, task in tasks.items()}
        for name, future in futures.items():
            yield Measurement(name, functools.partial(future.result, max(1.0, scale.seconds_left)))


def compile_step(network: Network, method: str, device: str) -> dict[str, Any]:
    """Take a compiled step."""
    torch.set_num_threads(2)
    inputs, targets = (tensor.to(device) for tensor in random_batch(network.recipe, network.batch))
    with tuned_for(device):
        step = make_step(network, method, MODES["--compile"], device, (inputs, targets))
        start = time.perf_counter()
        warm(step, device)
        return {"compile_s": round(time.perf_counter() - start, 1)}


def measure_steps(network: Network, mode: dict[str, Any], device: str, turns: int) -> dict[str, Any]:
    """Time steps of all methods in turns with an eager step of backpropagation, and measure the memory of each."""
    known = {field.name for field in dataclasses.fields(lct.TrainConfig)}
    if missing := mode.keys() - known:
        return {"skipped": f"this version has no setting {', '.join(missing)}"}
    rows: dict[str, dict[str, Any]] = {}
    steps: dict[str, Callable[[], None]] = {}
    batch = random_batch(network.recipe, network.batch)
    inputs, targets = (tensor.to(device) for tensor in batch)
    with tuned_for(device):
        for groups in (1, network.recipe.groups):
            build(network, groups)  # beforehand: it takes seconds
        before = allocated(device)
        reference = make_step(network, "backprop", {}, device, (inputs, targets))
        warm(reference, device)
        plain_mib = peak_mib(reference, before, device)
        for method in METHODS:
            before = allocated(device)
            start = time.perf_counter()
            step = steps[method] = make_step(network, method, mode, device, (inputs, targets))
            warm(step, device)
            seconds = time.perf_counter() - start
            rows[method] = {"method": method, "peak_MiB": peak_mib(step, before, device), "first_steps_s": seconds}
        seconds_of = in_turns({"reference": reference, **steps}, turns, device)
        for method, step in steps.items():
            rows[method]["host_ms"] = round(1e3 * statistics.median(host_seconds(step, device) for _ in range(5)), 3)
    for method, row in rows.items():
        row["ms"] = round(1e3 * statistics.median(seconds_of[method]), 3)
        row["images_per_s"] = round(network.batch / statistics.median(seconds_of[method]), 1)
        row["time_to_eager_backprop"] = paired(seconds_of[method], seconds_of["reference"])
        row["time_to_backprop"] = paired(seconds_of[method], seconds_of["backprop"])
        if plain_mib:
            row["memory_to_eager_backprop"] = round(row["peak_MiB"] / plain_mib, 3)
        row["first_steps_s"] = round(row["first_steps_s"], 2)
    return {"n": turns, "steps_each": STEPS, "precision": precision(network, device), "rows": list(rows.values())}


def make_step(
    network: Network, method: str, mode: dict[str, Any], device: str, batch: tuple[Tensor, Tensor]
) -> Callable[[], None]:
    """Make a function that takes a training step as lctprune.train does."""
    built = copy.deepcopy(build(network, 1 if method == "backprop" else network.recipe.groups)).train()
    settings = lct.TrainConfig(method=method, device=device, **mode)  # type: ignore[arg-type]
    config = resolved_for(built.groups, network.recipe.example, settings)
    count = len(built.groups)
    pipeline = Pipeline(None, groups=count, device=device)
    stage = pipeline.stage(built, [range(count)], config, lct.cross_entropy)
    stage.train_mode()

    def step() -> None:
        with config.autocast(), compilation(config):
            stage.step(*batch, STEP)

    return step


def precision(network: Network, device: str) -> str:
    """Return the precision of training."""
    built = build(network, 1)
    return resolved_for(built.groups, network.recipe.example, lct.TrainConfig(device=device)).precision  # type: ignore[arg-type]


def warm(step: Callable[[], None], device: str) -> None:
    """Take the steps in which kernels are chosen and compiled."""
    for _ in range(WARMUP):
        step()
    synchronize(device)


def in_turns(steps: dict[str, Callable[[], None]], turns: int, device: str) -> dict[str, list[float]]:
    """Measure the seconds per step of each callable, in turns of `STEPS` steps: by events on CUDA."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            step()  # so that the queue is never empty while the clock runs
            if device == "cuda":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                start.record()
                for _ in range(STEPS):
                    step()
                end.record()
                torch.cuda.synchronize()
                seconds[name].append(start.elapsed_time(end) / 1e3 / STEPS)
            else:
                begin = time.perf_counter()
                for _ in range(STEPS):
                    step()
                seconds[name].append((time.perf_counter() - begin) / STEPS)
    return seconds


def host_seconds(step: Callable[[], None], device: str) -> float:
    """Measure how long the host takes to ask for a step; where that is all of the step, the device waits for it."""
    synchronize(device)
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def peak_mib(step: Callable[[], None], before: int, device: str) -> float | None:
    """Measure the peak memory of a step beyond `before` bytes: weights, optimizer states, activations, gradients."""
    if device != "cuda":
        return None
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def allocated(device: str) -> int:
    """Return the bytes of all tensors on the device."""
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def paired(slower: list[float], faster: list[float]) -> float:
    """Compare two callables by the turns in which they ran one after the other."""
    return round(statistics.median(one / other for one, other in zip(slower, faster, strict=True)), 3)
