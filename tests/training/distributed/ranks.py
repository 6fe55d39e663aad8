"""Trains small networks in one process, or as one of several: ranks.py FOLDER [REPLICAS]. See test_pipeline.py."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

import lctprune as lct
from lctprune.training.distributed.process_group import ProcessGroup, process_group


class Turned(nn.Module):
    """Gives what is dense in memory, but in no usual order."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 2, 1)


def convolutional() -> lct.LocalCriticNetwork:
    """Four groups with batch norm and dropout."""
    channels = (3, 8, 8, 16)
    groups = [
        nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.Dropout(0.2))
        for before, after in itertools.pairwise(channels)
    ]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    return lct.LocalCriticNetwork([*groups, head], [critic(after) for after in channels[1:]])


def critic(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(72, 4),
    )


def turned() -> lct.LocalCriticNetwork:
    """Four groups without anything that depends on the other samples of a batch, or on chance."""
    groups = [nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), Turned()) for channels in (3, 8, 8)]
    head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 64, 4))
    critics = [nn.Sequential(nn.Flatten(), nn.Linear(8 * 64, 4)) for _ in groups]
    return lct.LocalCriticNetwork([*groups, head], critics)


class Part(nn.Module):
    """Gives a view with holes."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2, :, ::2]


def sliced() -> lct.LocalCriticNetwork:
    """Four groups, of which the second sees a part of what the first computes."""
    groups = [
        nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), Part()),
        nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        nn.Identity(),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    ]
    critics = [nn.Sequential(nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(256, 4)) for _ in range(3)]
    return lct.LocalCriticNetwork(groups, critics)


class Guarded(nn.Module):
    """Has a frozen stem in evaluation mode, a block without gradients, and one outside autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (
            nn.Sequential(nn.Conv2d(before, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for before in (3, 8, 8)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        self.stem[0].requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.stem.eval()
        self.stem[1].requires_grad_(False)  # only here
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        with torch.no_grad():
            offset = self.a(x)
        with torch.autocast("cpu", enabled=False):
            x = self.b((x + offset).float())
        return self.head(x)


def guarded() -> lct.LocalCriticNetwork:
    """Three groups, cut from a network."""
    return lct.attach_critics(Guarded(), torch.zeros(1, 3, 8, 8), num_outputs=4, split_at=["stem", "b"])


def columns() -> lct.LocalCriticNetwork:
    """Four groups on rows of a table, for a regression."""
    groups = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)]
    return lct.LocalCriticNetwork([*groups, nn.Linear(6, 1)], [nn.Linear(6, 1) for _ in groups])


def eight() -> lct.LocalCriticNetwork:
    """Eight groups on rows of a table."""
    groups = [nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.1), nn.Tanh()) for _ in range(7)]
    return lct.LocalCriticNetwork([*groups, nn.Linear(6, 1)], [nn.Linear(6, 1) for _ in groups])


def images() -> lct.Data:
    torch.manual_seed(5)
    train, val = (
        torch.randint(256, (44, 8, 8, 3), dtype=torch.uint8),
        torch.randint(256, (9, 8, 8, 3), dtype=torch.uint8),
    )
    normalization = lct.Normalization((0.5,) * 3, (0.25,) * 3)
    splits = [
        lct.TensorSplit(train, torch.randint(4, (44,)), normalization, lct.Augmentation(crop=1, flip=True)),
        lct.TensorSplit(val, torch.randint(4, (9,)), normalization),
    ]
    return lct.Data(train=splits[0], val=splits[1], test=splits[1], classes=tuple("abcd"), normalization=normalization)


def table() -> lct.Data:
    torch.manual_seed(5)
    splits = [lct.TensorSplit(torch.randn(count, 6), torch.randn(count, 1)) for count in (44, 9)]
    return lct.Data(train=splits[0], val=splits[1], test=splits[1], classes=())


Case = tuple[Callable[[], lct.LocalCriticNetwork], Callable[[], lct.Data], dict[str, Any]]
CASES: dict[str, Case] = {
    "greedy": (convolutional, images, {"matching": 0, "distill": 0}),
    "paper": (convolutional, images, {"matching": 1, "distill": 0, "critic_period": 3, "critic_optimizer": "adam"}),
    "bf16": (convolutional, images, {"matching": 0.5, "precision": "bf16"}),
    "bf16-period": (convolutional, images, {"matching": 0.5, "precision": "bf16", "critic_period": 3}),
    "fp16": (convolutional, images, {"precision": "fp16"}),
    "sgd": (convolutional, images, {"optimizer": "sgd"}),
    "adamw": (convolutional, images, {"optimizer": "adamw", "schedule": "step"}),
    "turned": (turned, images, {}),
    "sliced": (sliced, images, {"precision": "bf16"}),
    "frozen": (convolutional, images, {"freeze_main": True}),
    "guarded": (guarded, images, {"precision": "bf16"}),
    "regression": (columns, table, {"distill": 0.5}),
    "averaged": (
        convolutional,
        images,
        {"ema": 0.9, "patience": 1, "epochs": 3, "accumulate": 2, "clip_grad_norm": 0.5},
    ),
    "blocks": (eight, table, {"distill": 0.5, "blocks": 4}),
}


def train(name: str, folder: Path, group: ProcessGroup | None, replicas: int) -> None:
    make_network, make_data, settings = CASES[name]
    config = lct.TrainConfig(
        **{"method": "local-critic", "epochs": 2, "batch_size": 8, "precision": "fp32", **settings}
    )
    torch.manual_seed(group.rank if group else 0)  # rank 0's weights are what counts
    network, data, run = make_network(), None, None
    if group is None or group.rank == 0:
        data = make_data()
        begun = folder / name / "config.json"
        run = lct.open_run(network, data, config, run_dir=folder / name, resume=begun.exists())
    steps = lct.train_steps(network, data, run, processes=group, replicas=replicas)
    for progress in steps:
        if progress.val_accuracy is not None and (folder / "stop-after-one-epoch").exists():
            break  # of one process; several cannot be stopped by one of them


def main() -> None:
    folder, *replicas = sys.argv[1:]
    torch.set_num_threads(1)
    with process_group(timeout_s=20, on_lost=lambda _: os._exit(1)) as group:
        for name in CASES:
            train(name, Path(folder), group, int(replicas[0]) if replicas else 1)


if __name__ == "__main__":
    main()
