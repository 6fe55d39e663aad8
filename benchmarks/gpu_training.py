"""Trainings side by side on the device of `gpu.py`: how good every exit becomes, and how fast."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_report import SEED, Measurement, Scale
from safetensors.torch import load_file, save_file

import lctprune as lct
from lctprune.measure.scores import score_exits
from lctprune.models.build import fitted
from lctprune.models.images import least_resnet_width
from lctprune.training.trainer import open_run

METHODS = ("local-critic", "joint", "backprop")
SPLITS, KINDS = ("train", "val", "test"), ("inputs", "targets")
USABLE = 0.8  # fraction of the time left in which all epochs must fit; the rest is for starting and evaluation
LATE_S = 20.0  # a training whose epoch ends so long after the end of its part is stopped within it
PACE = 30, 120  # steps before the clock, and on it


class Task(NamedTuple):
    """One training, as a process is told of it."""

    method: str
    seed: int
    epochs: int
    device: str
    pixels: Path  # of all splits
    normalization: lct.Normalization | None
    augmentation: lct.Augmentation
    folder: Path  # of the run directories
    quick: bool

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return self.folder / f"{self.method} {self.seed}"


def pace_part(scale: Scale) -> Iterator[Measurement]:
    """Yield the paces of the loader and of one training at a time."""
    task = _task(scale, made_up(*((80, 16) if scale.quick else (45_000, 32))), epochs=2)
    yield Measurement("loader", functools.partial(loader_pace, task))
    for method in METHODS:
        yield Measurement(method, functools.partial(training_pace, task._replace(method=method)))


def cifar_part(scale: Scale) -> Iterator[Measurement]:
    """Yield trainings with the defaults, side by side; the pace of a few steps says how many epochs fit."""
    arguments = scale.arguments
    start = time.perf_counter()
    data = made_up(80, 16) if scale.quick else lct.load_data(lct.DataConfig(name=str(arguments.data)))
    task = _task(scale, data, epochs=1 if scale.quick else arguments.epochs)
    decoding = {"decoded_images": sum(len(getattr(data, name).targets) for name in SPLITS)}
    yield Measurement("decoding", lambda: {**decoding, "s": round(time.perf_counter() - start, 1)})
    named = {
        f"{method}, seed {seed}": task._replace(method=method, seed=seed)
        for seed, method in itertools.product(range(1 if scale.quick else arguments.seeds), METHODS)
    }
    todo = {name: each for name, each in named.items() if name not in scale.done}
    if not todo:
        return
    end = time.time() + scale.seconds_left
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(arguments.processes, len(todo)), mp_context=context) as pool:
        epochs = task.epochs
        if begun := [each.run_dir for each in named.values() if has_checkpoint(each.run_dir)]:
            epochs = lct.Run(begun[0]).config.training.epochs
        elif not scale.quick:
            paces = list(pool.map(training_pace, todo.values()))
            slowest = min(each["images_per_s"] for each in paces)
            rounds = -(-len(todo) // arguments.processes)
            fitting = int(USABLE * (end - time.time()) / rounds * slowest / len(data.train.targets))
            epochs = max(1, min(epochs, fitting))
        futures = {name: pool.submit(train, each._replace(epochs=epochs), end) for name, each in todo.items()}
        for name, future in futures.items():
            yield Measurement(name, future.result, is_waiting=True)


def _task(scale: Scale, data: lct.Data, *, epochs: int) -> Task:
    """Write all images into a file that every process reads."""
    folder = scale.folder / ("made-up" if data.normalization is None else "cifar")
    pixels = folder / "pixels.safetensors"
    assert isinstance(data.train, lct.TensorSplit)
    if not pixels.exists():
        folder.mkdir(parents=True, exist_ok=True)
        splits = {name: getattr(data, name) for name in SPLITS}
        tensors = {f"{name}.{kind}": getattr(split, kind) for name, split in splits.items() for kind in KINDS}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, pixels)
    augmentation = data.train.augmentation
    return Task(METHODS[0], SEED, epochs, scale.device, pixels, data.normalization, augmentation, folder, scale.quick)


def made_up(samples: int, size: int) -> lct.Data:
    """Make a data set of noise in two classes of different brightness, a tenth of it to validate and a tenth to test.

    Args:
        samples: training images.
        size: side of an image, in pixels.
    """
    generator = torch.Generator().manual_seed(SEED)

    def split(samples: int, augmentation: lct.Augmentation) -> lct.TensorSplit:
        targets = torch.arange(samples) % 2
        noise = torch.randint(128, (samples, size, size, 3), generator=generator, dtype=torch.uint8)
        inputs = noise + 100 * targets.to(torch.uint8)[:, None, None, None]
        return lct.TensorSplit(inputs, targets, augmentation=augmentation)

    plain, changed = lct.Augmentation(), lct.Augmentation(crop=2, flip=True)
    train, val, test = split(samples, changed), split(samples // 10, plain), split(samples // 10, plain)
    return lct.Data(train=train, val=val, test=test, classes=("dark", "light"))


def read(task: Task) -> lct.Data:
    """Return the data of a training."""
    tensors = load_file(task.pixels)
    train, val, test = (
        lct.TensorSplit(tensors[f"{name}.inputs"], tensors[f"{name}.targets"], task.normalization, augmentation)
        for name, augmentation in zip(SPLITS, (task.augmentation, *[lct.Augmentation()] * 2), strict=True)
    )
    classes = tuple(str(number) for number in range(int(train.targets.max()) + 1))
    return lct.Data(train=train, val=val, test=test, classes=classes, normalization=task.normalization)


def begin(task: Task, run_dir: Path) -> tuple[lct.LocalCriticNetwork, lct.Data, lct.Run]:
    """Build the network and open the run, as `lctprune train resnet` does; continue a run that is there."""
    torch.set_num_threads(1)
    data = read(task)
    groups = 1 if task.method == "backprop" else 2 if task.quick else lct.NetworkConfig().groups
    model_args = {"width": least_resnet_width(16)} if task.quick else {}
    recipe = fitted(lct.NetworkConfig(model="resnet18", model_args=model_args, groups=groups), data)
    batch = {"batch_size": 16} if task.quick else {}
    config = lct.TrainConfig(method=task.method, epochs=task.epochs, seed=task.seed, device=task.device, **batch)  # type: ignore[arg-type]
    torch.manual_seed(task.seed)
    network = lct.build_network(recipe)
    resume = has_checkpoint(run_dir)
    if not resume:  # what a training left that was ended in its first epoch
        shutil.rmtree(run_dir, ignore_errors=True)
    return network, data, open_run(network, data, config, run_dir=run_dir, resume=resume)


def has_checkpoint(run_dir: Path) -> bool:
    """Tell whether a run can be continued."""
    return (run_dir / "checkpoint.safetensors").exists()


def train(task: Task, end: float) -> dict[str, Any]:
    """Train until `end` at most, in seconds since 1970, and measure every exit on both other splits."""
    network, data, run = begin(task, task.run_dir)
    start = time.time()
    for progress in lct.train_steps(network, data, run):
        late = time.time() - end
        if (late > 0 and progress.val_accuracy is not None and progress.epoch < progress.epochs) or late > LATE_S:
            done = f"{run.epochs_done} of {task.epochs} epochs done"
            last = {name: value for name, value in (run.metrics or [{}])[-1].items() if "val_accuracy" in name}
            return {"skipped": f"not reached: {done}", **last}
    tested, validated = (score_exits(network, split).accuracy for split in (data.test, data.val))
    rows = [
        {"exit": exit, "val_accuracy": round(one, 4), "test_accuracy": round(other, 4)}
        for exit, (one, other) in enumerate(zip(validated, tested, strict=True))
    ]
    pace = statistics.median(float(row["images_per_s"]) for row in run.metrics)
    epochs = {"epochs": task.epochs, "images_per_s": round(pace), "train_s": round(time.time() - start, 1)}
    return {**epochs, "precision": run.config.training.precision, "rows": rows}


def training_pace(task: Task) -> dict[str, Any]:
    """Take steps of one training alone, with its loader, and return images per second."""
    before, timed = (1, 2) if task.quick else PACE
    network, data, run = begin(task, task.folder / f"pace {task.method} {task.seed} {time.time_ns()}")
    start, count = 0.0, 0
    for count, _ in enumerate(lct.train_steps(network, data, run), start=1):
        if count == before:
            synchronize(task.device)
            start = time.perf_counter()
        if count == before + timed:
            synchronize(task.device)
            break
    seconds = time.perf_counter() - start
    shutil.rmtree(run.path)
    batch = run.config.training.batch_size
    return {"steps": count - before, "images_per_s": round((count - before) * batch / seconds), "batch": batch}


def loader_pace(task: Task) -> dict[str, Any]:
    """Read one epoch of training batches without a step, and return images per second."""
    split, size = read(task).train, 16 if task.quick else 64
    there = getattr(split, "on_device", lambda device: split)(task.device)
    next(iter(there.shuffled(size, seed=0)))
    start, images = time.perf_counter(), 0
    for inputs, targets in there.shuffled(size, seed=1):
        inputs.to(task.device, non_blocking=True)
        images += len(targets)
    synchronize(task.device)
    return {"images_per_s": round(images / (time.perf_counter() - start)), "batch": size}


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()
