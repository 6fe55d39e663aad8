"""The ways of `compress.py` from a trained network to one that keeps a budget: one measurement each, in one process."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_training import SPLITS, has_checkpoint, synchronize
from safetensors.torch import load_file
from torch import nn

import lctprune as lct
from lctprune.data.part_split import PartSplit
from lctprune.losses import default_loss
from lctprune.measure.scores import score_exits
from lctprune.measure.unscored import unscored
from lctprune.models.build import fitted
from lctprune.partition.cutting import possible_cut_points
from lctprune.pruning.dependencies import prunable, quiet, require_engine
from lctprune.pruning.importance import set_gradients
from lctprune.training.loop import Progress
from lctprune.training.trainer import open_run
from lctprune.utils.modules import moved
from lctprune.workflows.compression import begin_compression
from lctprune.workflows.compression_plan import passes_for
from lctprune.workflows.compression_stages import Compression
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import DENSE, FINETUNED, NARROWED, Member, members_of
from lctprune.workflows.taught import TaughtSplit, distillation_loss

COMPRESS, PRUNED, SCRATCH, PLAIN_HEAD, PUBLISHED = "compress", "torch-pruning", "scratch", "plain head", "published"
PRUNING_STEPS = 200  # from no channel to almost all of them: how closely a budget is met
PARTS = {DENSE: "densified", FINETUNED: "fine-tuned", NARROWED: "narrowed"}  # folder of a member's run -> its kind
PACE = 10, 30  # steps before the clock, and on it


class Setting(NamedTuple):
    """What is the same for all measurements.

    Attributes:
        network: name of the given network.
        model_args: further arguments of it.
        weights: file of its weights.
        pixels: file of all images, in uint8.
        normalization: how images are normalised.
        augmentation: random changes of training images.
        batch_size: samples per step.
        precision: as `--precision` of lctprune train.
        device: device of training.
        folder: folder of the run directories.
        quick: whether everything is at toy size.
    """

    network: str
    model_args: dict[str, Any]
    weights: Path
    pixels: Path
    normalization: lct.Normalization | None
    augmentation: lct.Augmentation
    batch_size: int
    precision: str
    device: str
    folder: Path
    quick: bool

    def data(self) -> lct.Data:
        """Read the images."""
        tensors = load_file(self.pixels)
        train, val, test = (
            lct.TensorSplit(tensors[f"{name}.inputs"], tensors[f"{name}.targets"], self.normalization, augmentation)
            for name, augmentation in zip(SPLITS, (self.augmentation, *[lct.Augmentation()] * 2), strict=True)
        )
        classes = tuple(str(number) for number in range(int(train.targets.max()) + 1))
        return lct.Data(train=train, val=val, test=test, classes=classes, normalization=self.normalization)

    def main(self, data: lct.Data, network: str | None = None, weights: Path | None = None) -> nn.Module:
        """Load the given network, or another one, as a plain network."""
        recipe = lct.NetworkConfig(model=network or self.network, model_args=self.model_args, groups=1)
        built = lct.build_network(fitted(recipe, data), weights=str(weights or self.weights))
        return built.groups[0].eval()

    def training(self, **settings: Any) -> lct.TrainConfig:
        """Return settings of a training, in which all ways agree."""
        return lct.TrainConfig(
            batch_size=self.batch_size,
            precision=self.precision,  # type: ignore[arg-type]
            device=self.device,  # type: ignore[arg-type]
            **settings,
        )


class Task(NamedTuple):
    """One measurement, as a process is told of it.

    Attributes:
        way: way to the smaller network.
        budget: percentage of the given network's FLOPs.
        seed: seed of the training.
        criterion: importance of channels.
        lr: peak learning rate; None for the default of `compress`.
        distill: weight of the given network's outputs in the loss.
        compute: all of its training, in epochs of the given network's training.
        source: name and file of a published network.
    """

    way: str
    budget: float
    seed: int
    criterion: str = ""
    lr: float | None = None
    distill: float = 0.5
    compute: float = 0.0
    source: tuple[str, Path] | None = None

    @property
    def variant(self) -> str:
        """The options among which validation chooses."""
        if self.way == PUBLISHED:
            return self.source[0].rpartition(":")[2] if self.source else "as given"
        given = [self.criterion, self.lr and f"lr {self.lr:g}", self.distill and f"distill {self.distill:g}"]
        return ", ".join(str(each) for each in given if each) if self.way != COMPRESS else ""

    @property
    def name(self) -> str:
        """The name of the measurement within its budget."""
        return ", ".join(filter(None, [self.way, self.variant, f"seed {self.seed}"]))

    def seconds(self, pace: dict[str, float], steps: int) -> float:
        """Estimate how long the training takes for one epoch of compute, from the pace of the given network.

        Args:
            pace: seconds per step `plain` and `taught`.
            steps: steps of a pass over the training split.
        """
        if self.way == PUBLISHED:
            return 0.0
        is_taught = self.distill > 0
        passes = 1 / (self.budget / 100 + (1 / 3 if is_taught else 0))
        extra = 1.15 if self.way == COMPRESS else 1.0  # critics cost less than they take
        return extra * passes * steps * pace["taught" if is_taught else "plain"]


class OutOfTimeError(Exception):
    """The time was up before a training had ended."""


def measure(setting: Setting, task: Task, end: float) -> dict[str, Any]:
    """Take one measurement until `end` at most, in seconds since 1970."""
    torch.set_num_threads(1)
    torch.manual_seed(task.seed)
    start = time.time()
    if start > end:
        return {"skipped": "not reached: not begun"}
    functions = {
        COMPRESS: compressed,
        PRUNED: pruned,
        SCRATCH: from_scratch,
        PLAIN_HEAD: with_plain_head,
        PUBLISHED: published,
    }
    try:
        rows = functions[task.way](setting, task, end)
    except OutOfTimeError as error:
        return {"skipped": f"not reached: {error}"}
    return {"train_s": round(time.time() - start, 1), "compute": round(task.compute, 3), "rows": rows}


def compressed(setting: Setting, task: Task, end: float) -> list[dict[str, Any]]:
    """Compress by `lctprune compress`: a row for what it chose, and one for the best of each kind of candidate."""
    data, folder = setting.data(), _folder(setting, task)
    recipe = lct.NetworkConfig(model=setting.network, model_args=setting.model_args)
    compression = begin_compression(
        recipe,
        data,
        lct.Budget(flops=f"{task.budget:g}%"),
        weights=setting.weights,
        config=lct.CompressConfig(epochs=task.compute, distill=task.distill, lr=task.lr),
        training=setting.training(seed=task.seed),
        out=folder,
        resume=has_checkpoint(folder),
    )
    for stage in compression.stages():
        _follow(stage.session.steps(), end, stage.what)
    return _candidates(setting, data, compression)


def _candidates(setting: Setting, data: lct.Data, compression: Compression) -> list[dict[str, Any]]:
    """Choose as `Compression.finish` does, but measure on the device of training and export nothing."""
    loaded = LoadedRun(compression.run, data)
    networks, fitting, kinds = {}, [], {}
    for member in members_of(loaded):
        network = loaded.network(member.run).subnetwork(member.exit)
        candidate = dataclasses.replace(unscored(network, data.example), exit=member.number, name=member.name)
        if compression.limits.excess(candidate) <= 1:
            own = lct.LocalCriticNetwork([moved(network, setting.device)])
            fitting.append(dataclasses.replace(candidate, accuracy=score_exits(own, data.val).accuracy[-1]))
            networks[member.number], kinds[member.number] = network, _kind(member)
    best = {"": lct.select(fitting, compression.limits)}
    for each in sorted(fitting, key=lambda each: -each.accuracy):
        best.setdefault(kinds[each.exit], each)
    flops = unscored(loaded.network(), data.example).flops or 1
    rows = [
        _row(setting, networks[each.exit], data, flops, {"part": kind, "network": each.name})
        for kind, each in best.items()
    ]
    return [rows[0] | {"spent": round(compression.spent, 3)}, *rows[1:]]


def _kind(member: Member) -> str:
    """Name the kind of a candidate, by the folder of its run."""
    return next((PARTS[name] for name in PARTS if name in member.run.path.parts), "exits")


def pruned(setting: Setting, task: Task, end: float) -> list[dict[str, Any]]:
    """Take channels out by Torch-Pruning alone, and fine-tune."""
    data = setting.data()
    model = setting.main(data)
    flops = lct.count_flops(model, data.example)
    prune(model, data, task, setting.device)
    return [_trained(setting, task, model, data, flops, end)]


def from_scratch(setting: Setting, task: Task, end: float) -> list[dict[str, Any]]:
    """Train the architecture that `pruned` leaves, from new weights."""
    data = setting.data()
    model = setting.main(data)
    flops = lct.count_flops(model, data.example)
    prune(model, data, task, setting.device)
    torch.manual_seed(task.seed)
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return [_trained(setting, task, model, data, flops, end)]


def with_plain_head(setting: Setting, task: Task, end: float) -> list[dict[str, Any]]:
    """Cut the trained network where the budget ends, and give it a pooling and a linear layer."""
    data = setting.data()
    model = setting.main(data)
    flops = lct.count_flops(model, data.example)
    limit = task.budget / 100 * flops
    points = [point.name for point in possible_cut_points(model, data.example)]
    for point in reversed(points):
        network = lct.attach_critics(model, data.example, split_at=[point], critic="linear")
        cut = network.subnetwork(0)
        if lct.count_flops(cut, data.example) <= limit:
            return [_trained(setting, task, cut, data, flops, end) | {"network": f"up to {point}"}]
    raise SystemExit(f"no cut point of {setting.network} keeps {task.budget:g}% of its FLOPs")


def published(setting: Setting, task: Task, end: float) -> list[dict[str, Any]]:
    """Measure a published network, or the given one, as it is."""
    data = setting.data()
    flops = lct.count_flops(setting.main(data), data.example)
    name, weights = task.source or (setting.network, setting.weights)
    return [_row(setting, setting.main(data, name, weights), data, flops, {"network": name})]


def prune(model: nn.Module, data: lct.Data, task: Task, device: str) -> None:
    """Take channels out of a model, in place, by Torch-Pruning's own pruner, until it keeps the budget.

    Layers that must keep their channels (a shortcut is padded) are left alone, as a careful user would.
    """
    engine, example = require_engine(), data.example[:1]
    limit = task.budget / 100 * lct.count_flops(model, example)
    whole = prunable(model, example, "the network").kept_whole
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if task.criterion == "taylor":
        batches = data.train.shuffled(64, seed=task.seed)
        moved(model, device)
        set_gradients(model, lambda inputs: [model(inputs)], batches, default_loss(data.train.targets), device=device)
        moved(model, "cpu")
    importances = engine.importance
    with quiet():
        pruner = engine.pruner.BasePruner(
            model.eval(),
            example,
            importance=importances.GroupTaylorImportance()
            if task.criterion == "taylor"
            else importances.GroupMagnitudeImportance(),
            global_pruning=True,
            pruning_ratio=0.98,
            max_pruning_ratio=0.9,
            iterative_steps=PRUNING_STEPS,
            ignored_layers=[module for name, module in model.named_modules() if name in whole],
        )
        for _ in range(PRUNING_STEPS):
            pruner.step()
            if lct.count_flops(model, example) <= limit:
                model.zero_grad(set_to_none=True)
                return
    raise SystemExit(f"{task.criterion} pruning does not get to {task.budget:g}% of the FLOPs")


def _trained(setting: Setting, task: Task, model: nn.Module, data: lct.Data, flops: int, end: float) -> dict[str, Any]:
    """Train a network for the compute of the task, all included, and measure it."""
    fraction = lct.count_flops(model, data.example) / flops
    passes = passes_for(task.compute, per_pass=fraction + (1 / 3 if task.distill else 0))
    config = setting.training(method="backprop", epochs=passes.epochs, lr=task.lr, seed=task.seed, batch_norm="train")
    network, folder = lct.LocalCriticNetwork([model]), _folder(setting, task)
    run = open_run(network, data, config, run_dir=folder, resume=has_checkpoint(folder))
    steps = taught_steps(setting, network, data, run, task.distill, passes.part)
    _follow(steps, end, f"{passes.epochs} epochs")
    return _row(setting, network, data, flops, {"network": "", "passes": round(passes.epochs * passes.part, 2)})


def taught_steps(
    setting: Setting, network: lct.LocalCriticNetwork, data: lct.Data, run: lct.Run, distill: float, part: float
) -> Iterator[Progress]:
    """Train a network as `lctprune finetune` does, over a part of the training split per epoch."""
    train: lct.Split = data.train
    loss = default_loss(data.train.targets, label_smoothing=run.config.training.label_smoothing)
    if distill:
        train = TaughtSplit(train, setting.main(data), run.config.training)
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


def _row(setting: Setting, network: nn.Module, data: lct.Data, flops: int, more: dict[str, Any]) -> dict[str, Any]:
    """Measure a network on the validation and test split."""
    own, example = lct.LocalCriticNetwork([network.to("cpu")]), data.example
    costs = {
        "flops": round(lct.count_flops(own, example) / flops, 4),
        "parameters": lct.count_parameters(own),
    }
    moved(own.eval(), setting.device)
    accuracies = {f"{name}_accuracy": score_exits(own, getattr(data, name)).accuracy[-1] for name in ("val", "test")}
    return {**more, **costs, **{name: round(value, 4) for name, value in accuracies.items()}}


def _follow(steps: Iterator[Progress], end: float, what: str) -> None:
    """Train until the time is up."""
    for progress in steps:
        if time.time() > end:
            raise OutOfTimeError(f"{what}: epoch {progress.epoch} of {progress.epochs}")


def _folder(setting: Setting, task: Task) -> Path:
    """Return the run directory of a task; what a training left that was ended in its first epoch is deleted."""
    folder = setting.folder / f"{task.budget:g} {task.name}".replace(" ", "-").replace(",", "")
    if not has_checkpoint(folder):
        shutil.rmtree(folder, ignore_errors=True)
    return folder
