"""What `compress.py` measures: the setting that all measurements share, and each of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import part_of
from gpu_training import KINDS, SPLITS, made_up
from safetensors.torch import load_file, save_file
from torch import nn

import lctprune as lct
from lctprune.models.build import build_model, fitted

COMPRESS, PRUNED, SCRATCH, PLAIN_HEAD, PUBLISHED = "compress", "torch-pruning", "scratch", "plain head", "published"


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
        common: dict[str, Any] = {"batch_size": self.batch_size, "precision": self.precision, "device": self.device}
        return lct.TrainConfig(**common, **settings)


class Task(NamedTuple):
    """One measurement, as a process is told of it.

    Attributes:
        way: way to the smaller network.
        budget: percentage of the given network's FLOPs.
        seed: seed of the training.
        criterion: importance of channels.
        lr: peak learning rate; None for the default of `compress`.
        distill: weight of the given network's outputs in the loss.
        views: number of passes after which they repeat, so that the given network computes each output once; 0: never.
        compute: all of its training, in epochs of the given network's training.
        source: name and file of a published network.
    """

    way: str
    budget: float
    seed: int
    criterion: str = ""
    lr: float | None = None
    distill: float = 0.5
    views: int = 0
    compute: float = 0.0
    source: tuple[str, Path] | None = None

    @property
    def variant(self) -> str:
        """The options among which validation chooses."""
        if self.way == PUBLISHED:
            return self.source[0].rpartition(":")[2] if self.source else "as given"
        given = [self.criterion, self.lr and f"lr {self.lr:g}", self.distill and f"distill {self.distill:g}"]
        given += [f"views {self.views}"] if self.views else []
        if self.way == COMPRESS:
            given = [self.lr and f"lr {self.lr:g}"]
        return ", ".join(str(each) for each in given if each)

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


def prepared(arguments: argparse.Namespace) -> tuple[Setting, dict[str, int]]:
    """Decode all images once, into a file that every process reads, and count them."""
    folder = (arguments.work or arguments.out.with_suffix("")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.quick:
        data = made_up(80, 16)
    else:
        config = {"mean": arguments.mean, "std": arguments.std, "augment": "crop-flip", "shift": 0.125}
        data = lct.load_data(lct.DataConfig(name=str(arguments.data), **config))
    counts = {"train": arguments.images, "val": arguments.eval_images, "test": arguments.eval_images}
    splits = {name: part_of(getattr(data, name), count) for name, count in counts.items()}
    assert isinstance(data.train, lct.TensorSplit), "images of more than 96 pixels a side are not held in memory"
    pixels = folder / "pixels.safetensors"
    tensors = {f"{name}.{kind}": getattr(splits[name], kind) for name in SPLITS for kind in KINDS}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, pixels)
    network, model_args, weights = arguments.network, {}, arguments.weights
    if arguments.quick:
        network, model_args, weights = "vgg-lct", {"width": 8}, folder / "weights.safetensors"
        _write_random(data, network, model_args, weights)
    setting = Setting(
        network=network,
        model_args=model_args,
        weights=weights.resolve(),
        pixels=pixels,
        normalization=data.normalization,
        augmentation=data.train.augmentation,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        device=arguments.device,
        folder=folder,
        quick=arguments.quick,
    )
    counts = {name: len(split.targets) for name, split in splits.items()}
    return setting, {**counts, "all": sum(counts.values())}


def _write_random(data: lct.Data, network: str, model_args: dict[str, Any], path: Path) -> None:
    """Write random weights, as a network that was trained."""
    torch.manual_seed(0)
    model = build_model(fitted(lct.NetworkConfig(model=network, model_args=model_args), data))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
