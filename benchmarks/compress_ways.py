"""The ways of `compress.py` from a trained network to one that keeps a budget: one measurement each, in one process."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import torch
from compress_setting import COMPRESS, PLAIN_HEAD, PRUNED, PUBLISHED, SCRATCH, Setting, Task
from compress_training import OutOfTimeError, folder_of, follow, row_of, trained
from gpu_training import has_checkpoint
from torch import nn

import lctprune as lct
from lctprune.losses import default_loss
from lctprune.measure.scores import score_exits
from lctprune.measure.unscored import unscored
from lctprune.partition.cutting import possible_cut_points
from lctprune.pruning.dependencies import prunable, quiet, require_engine
from lctprune.pruning.importance import set_gradients
from lctprune.utils.modules import moved
from lctprune.workflows.compression import begin_compression
from lctprune.workflows.compression_stages import Compression
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import DENSE, FINETUNED, NARROWED, Member, members_of

PRUNING_STEPS = 200  # from no channel to almost all of them: how closely a budget is met
PARTS = {DENSE: "densified", FINETUNED: "fine-tuned", NARROWED: "narrowed"}  # folder of a member's run -> its kind


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
    """Compress by `lctprune compress`: a row for what it chose, the best of each kind, and each size on the way."""
    data, folder = setting.data(), folder_of(setting, task)
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
        follow(stage.session.steps(), end, stage.what)
    return _candidates(setting, data, compression)


def _candidates(setting: Setting, data: lct.Data, compression: Compression) -> list[dict[str, Any]]:
    """Choose as `Compression.finish` does, but measure on the device of training and export nothing."""
    loaded = LoadedRun(compression.run, data)
    networks, fitting, kinds, larger = {}, [], {}, {}
    for member in members_of(loaded):
        network = loaded.network(member.run).subnetwork(member.exit)
        candidate = dataclasses.replace(unscored(network, data.example), exit=member.number, name=member.name)
        if compression.limits.excess(candidate) <= 1:
            own = lct.LocalCriticNetwork([moved(copy.deepcopy(network), setting.device)])
            fitting.append(dataclasses.replace(candidate, accuracy=score_exits(own, data.val).accuracy[-1]))
            networks[member.number], kinds[member.number] = network, _kind(member)
        elif _kind(member) == PARTS[NARROWED]:
            larger[member.name] = network
    best = {"": lct.select(fitting, compression.limits)}
    for each in sorted(fitting, key=lambda each: -each.accuracy):
        best.setdefault(kinds[each.exit], each)
    flops = unscored(loaded.network(), data.example).flops or 1
    rows = [
        row_of(setting, networks[each.exit], data, flops, {"part": kind, "network": each.name})
        for kind, each in best.items()
    ]
    for name, network in larger.items():
        row = row_of(setting, network, data, flops, {"part": "on the way", "network": name})
        rows.append(row | {"budget": round(100 * row["flops"])})
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
    return [trained(setting, task, model, data, flops, end)]


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
    return [trained(setting, task, model, data, flops, end)]


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
            return [trained(setting, task, cut, data, flops, end) | {"network": f"up to {point}"}]
    raise SystemExit(f"no cut point of {setting.network} keeps {task.budget:g}% of its FLOPs")


def published(setting: Setting, task: Task, end: float) -> list[dict[str, Any]]:
    """Measure a published network, or the given one, as it is."""
    data = setting.data()
    flops = lct.count_flops(setting.main(data), data.example)
    name, weights = task.source or (setting.network, setting.weights)
    return [row_of(setting, setting.main(data, name, weights), data, flops, {"network": name})]


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
