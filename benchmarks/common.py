"""What several scripts need: data at a scale, one training and its figures; networks, batches and steps to time."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import lctprune as lct
from lctprune.config.training import ResolvedTrainConfig
from lctprune.data.held_out import stratified
from lctprune.data.splits import Batch
from lctprune.measure.group_costs import measure_groups
from lctprune.measure.scores import score_exits
from lctprune.models.build import fitted
from lctprune.models.images import least_resnet_width
from lctprune.training.distributed.pipeline import Pipeline
from lctprune.training.group_trainer import StepSettings
from lctprune.training.stage import Stage
from lctprune.utils.environment import machine

STEP = StepSettings(step=0, lr=0.01, matching=0.0, update_critics=True, distill=0.25)  # of scripts that time steps


class Trained(NamedTuple):
    """A network after training, its run, and the wall-clock seconds of that: validation after each epoch included."""

    network: lct.LocalCriticNetwork
    run: lct.Run
    seconds: float


def scale_options(parser: argparse.ArgumentParser, *, images: int, width: int, epochs: int, seeds: int) -> None:
    """Add the options that say how large an experiment is, with its defaults."""
    add = parser.add_argument
    add("--data", default="digits", help="as --data of lctprune train")
    add("--images", type=int, default=images, help="training images, balanced by class; 0: all")
    add("--val-images", type=int, default=0, help="validation images at most; 0: all")
    add("--image-size", type=int, help="side in pixels; by default the data's own")
    add("--width", type=int, default=width, help="channels of the first stage; 64 is the full network")
    add("--epochs", type=int, default=epochs)
    add("--seeds", type=int, default=seeds, help="how many: 0, 1, ...")
    add("--threads", type=int, default=0, help="of PyTorch; 0: as many as it takes by itself")
    add("--quick", action="store_true", help="tiny, to see that the script works")


def make_quick(arguments: argparse.Namespace) -> None:
    """Choose the smallest scale at which everything still happens, where --quick is given."""
    if arguments.quick:
        arguments.images, arguments.val_images = 128, 64
        arguments.image_size = arguments.image_size or 16
        arguments.width = least_resnet_width(arguments.image_size)
        arguments.epochs, arguments.seeds = 1, 1


def describe_scale(arguments: argparse.Namespace, data: lct.Data) -> str:
    """Describe in one line what the figures of a table depend on."""
    splits = ", ".join(f"{len(getattr(data, name).targets)} {name}" for name in ("train", "val", "test"))
    shape = " x ".join(str(side) for side in data.example.shape[1:])
    return (
        f"data {arguments.data} ({splits} samples of {shape}), width {arguments.width}, "
        f"{arguments.epochs} epochs, {arguments.seeds} seeds; {machine()}"
    )


def load(arguments: argparse.Namespace) -> lct.Data:
    """Load the data set that `scale_options` ask for, with part of its training and validation splits.

    Parts are balanced by class, the same for every seed, and normalised as the whole data set is.

    Raises:
        DataError: the data is missing, or its images are too large to be held in memory and a part is asked for.
    """
    data = lct.load_data(lct.DataConfig(name=arguments.data, image_size=arguments.image_size))
    train, val = part_of(data.train, arguments.images), part_of(data.val, arguments.val_images)
    return dataclasses.replace(data, train=train, val=val)


def trained(
    network: lct.NetworkConfig | lct.LocalCriticNetwork,
    config: lct.TrainConfig,
    data: lct.Data,
    *,
    run_dir: Path | None = None,
) -> Trained:
    """Train a network and take the time.

    Args:
        network: settings of a network to build, fitted to the data, with weights by `config.seed`; or a network that is
            trained further, in place.
        config: settings of the training.
        data: data set to train and validate on.
        run_dir: run directory, which replaces one that is there; by default one that is deleted afterwards.
    """
    if isinstance(network, lct.NetworkConfig):
        torch.manual_seed(config.seed)
        network = lct.build_network(fitted(network, data))
    if run_dir is not None:
        shutil.rmtree(run_dir, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        start = time.perf_counter()
        run = lct.train(network, data, config, run_dir=run_dir or temporary)
        return Trained(network, run, time.perf_counter() - start)


def exit_accuracies(network: lct.LocalCriticNetwork, split: lct.Split) -> list[float]:
    """Return the accuracy of every exit, 0 to 1."""
    return score_exits(network, split).accuracy


def macs(network: lct.LocalCriticNetwork, example: Tensor | None = None) -> list[int]:
    """Count the multiply-adds of every exit for one sample.

    Args:
        network: network with any number of exits.
        example: input, [1, ...]; a network that `lct.build_network` made needs none.
    """
    if example is None:
        assert network.recipe is not None, "a network made by hand needs an example"
        example = network.recipe.example
    return [lct.count_flops(network.subnetwork(exit), example) // 2 for exit in range(len(network.groups))]


def mean_and_deviation(values: Sequence[float]) -> str:
    """Format fractions in percent; the deviation is that of the sample, and 0 of a single value."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * deviation:.1f}%"


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a row per mapping, in the columns of the first one; what a row does not have is left empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def build(recipe: lct.NetworkConfig, training: lct.TrainConfig | None = None) -> lct.LocalCriticNetwork:
    """Build a network with weights by seed 0, channels last; cuts balanced by time are measured for `training`."""
    torch.manual_seed(0)
    return lct.build_network(recipe, training=training).to(memory_format=torch.channels_last).train()


def random_batch(recipe: lct.NetworkConfig, size: int) -> Batch:
    """Draw a batch of images, or of sentences for a network with a vocabulary."""
    torch.manual_seed(0)
    targets = torch.randint(recipe.num_outputs, (size,))
    if recipe.vocabulary:
        return torch.randint(1, recipe.vocabulary, (size, recipe.steps or 1)), targets
    images = torch.randn(size, recipe.in_channels, recipe.image_size, recipe.image_size)
    return images.to(memory_format=torch.channels_last), targets


def whole_stage(network: lct.LocalCriticNetwork, config: ResolvedTrainConfig) -> Stage:
    """Hold all groups in this process, as training in one process does."""
    count = len(network.groups)
    return Pipeline(None, groups=count).stage(network, [range(count)], config, lct.cross_entropy)


def part_of(split: lct.Split, count: int) -> lct.Split:
    """Take `count` samples, balanced by class; the whole split, where it has no more or `count` is 0."""
    if not 0 < count < len(split.targets):
        return split
    if not isinstance(split, lct.TensorSplit):
        raise lct.DataError("a part of a split can be taken of data in memory only: images of up to 96 pixels a side")
    _, chosen = stratified(split.targets, count / len(split.targets), 0)
    return lct.TensorSplit(
        lambda: split.inputs[chosen],  # files are read when they are needed
        split.targets[chosen],
        split.normalization,
        split.augmentation,
    )


def group_flops(network: lct.LocalCriticNetwork, example: Tensor) -> list[tuple[int, int]]:
    """Count the FLOPs of each group and of its critic, for one sample."""
    flops = []
    for cost in measure_groups(network, example):
        assert cost.flops is not None, "an operation has no FLOP formula"
        assert cost.critic_flops is not None, "an operation has no FLOP formula"
        flops.append((cost.flops, cost.critic_flops))
    return flops
