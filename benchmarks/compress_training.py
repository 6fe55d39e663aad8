"""The trainings of `compress.py` other than those of `lctprune compress`, and the measurement of a network."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from compress_setting import Setting, Task
from gpu_training import has_checkpoint, synchronize
from torch import nn

import lctprune as lct
from lctprune.data.wrapped_split import PartSplit
from lctprune.losses import default_loss
from lctprune.measure.scores import score_exits
from lctprune.training.progress import Progress
from lctprune.training.trainer import open_run
from lctprune.utils.modules import moved
from lctprune.workflows.compression_plan import tuning_passes
from lctprune.workflows.taught import TaughtSplit, distillation_loss

PACE = 10, 30  # steps before the clock, and on it


class OutOfTimeError(Exception):
    """The time was up before a training had ended."""


def trained(setting: Setting, task: Task, model: nn.Module, data: lct.Data, flops: int, end: float) -> dict[str, Any]:
    """Train a network for the compute of the task, all included, and measure it."""
    fraction = lct.count_flops(model, data.example) / flops
    passes = tuning_passes(task.compute, [fraction], lct.CompressConfig(distill=task.distill, views=task.views))
    config = setting.training(method="backprop", epochs=passes.epochs, lr=task.lr, seed=task.seed, batch_norm="train")
    network, folder = lct.LocalCriticNetwork([model]), folder_of(setting, task)
    run = open_run(network, data, config, run_dir=folder, resume=has_checkpoint(folder))
    steps = taught_steps(setting, network, data, run, task.distill, passes.part, task.views)
    follow(steps, end, f"{passes.epochs} epochs")
    return row_of(setting, network, data, flops, {"network": "", "passes": round(passes.passes, 2)})


def taught_steps(
    setting: Setting,
    network: lct.LocalCriticNetwork,
    data: lct.Data,
    run: lct.Run,
    distill: float,
    part: float,
    views: int = 0,
) -> Iterator[Progress]:
    """Train a network as `lctprune finetune` does, over a part of the training split per epoch."""
    train: lct.Split = data.train
    loss = default_loss(data.train.targets, label_smoothing=run.config.training.label_smoothing)
    if distill:
        train = TaughtSplit(train, setting.main(data), run.config.training, views=views)
        loss = partial(distillation_loss, loss=loss, weight=distill, is_regression=False)
    data = dataclasses.replace(data, train=PartSplit(train, part, setting.batch_size))
    return lct.train_steps(network, data, run, loss=loss, validation_loss=default_loss(data.val.targets))


def pace(setting: Setting, number: int) -> dict[str, float]:
    """Measure seconds per step of the given network's training, `plain` and `taught`, beside other processes."""
    torch.set_num_threads(1)
    data, found = setting.data(), {}
    steps = max(2, len(data.train.targets) // setting.batch_size)
    before = min(PACE[0], steps // 2)
    timed = min(PACE[1], steps - before)
    for name, distill in (("plain", 0.0), ("taught", 0.5)):
        folder = setting.folder / f"pace {number} {name}"
        shutil.rmtree(folder, ignore_errors=True)
        network = lct.LocalCriticNetwork([setting.main(data)])
        run = open_run(network, data, setting.training(method="backprop", epochs=1, lr=1e-4), run_dir=folder)
        start = 0.0
        for count, _ in enumerate(taught_steps(setting, network, data, run, distill, 1.0), start=1):
            if count in (before, before + timed):
                synchronize(setting.device)
                start, seconds = time.perf_counter(), time.perf_counter() - start
            if count == before + timed:
                found[name] = seconds / timed
                break
        shutil.rmtree(folder)
    return found


def row_of(setting: Setting, network: nn.Module, data: lct.Data, flops: int, more: dict[str, Any]) -> dict[str, Any]:
    """Measure a network on the validation and test split."""
    own, example = lct.LocalCriticNetwork([network.to("cpu")]), data.example
    costs = {
        "flops": round(lct.count_flops(own, example) / flops, 4),
        "parameters": lct.count_parameters(own),
    }
    moved(own.eval(), setting.device)
    accuracies = {f"{name}_accuracy": score_exits(own, getattr(data, name)).accuracy[-1] for name in ("val", "test")}
    return {**more, **costs, **{name: round(value, 4) for name, value in accuracies.items()}}


def follow(steps: Iterator[Progress], end: float, what: str) -> None:
    """Train until the time is up."""
    for progress in steps:
        if time.time() > end:
            raise OutOfTimeError(f"{what}: epoch {progress.epoch} of {progress.epochs}")


def folder_of(setting: Setting, task: Task) -> Path:
    """Return the run directory of a task; what a training left that was ended in its first epoch is deleted."""
    folder = setting.folder / f"{task.budget:g} {task.name}".replace(" ", "-").replace(",", "")
    if not has_checkpoint(folder):
        shutil.rmtree(folder, ignore_errors=True)
    return folder
