"""Train on a PyTorch `Dataset` of one's own, choose under a budget, export.

python own_dataset.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import lctprune as lct


class Stripes(Dataset[tuple[Tensor, int]]):
    """Noisy 8x8 images of horizontal or vertical stripes: stands for whatever your data is."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(self.seed + index)
        stripes = (torch.arange(8) % 2).float().expand(8, 8)
        label = index % 2
        image = stripes if label else stripes.T
        return (image + 0.5 * torch.randn(8, 8, generator=generator))[None], label


if __name__ == "__main__":
    torch.manual_seed(0)
    data = lct.Data(
        train=lct.Split.from_dataset(Stripes(256, seed=0)),
        val=lct.Split.from_dataset(Stripes(64, seed=1000)),
        test=lct.Split.from_dataset(Stripes(64, seed=2000)),
        classes=("horizontal", "vertical"),
    )
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, data.num_outputs),
    )
    network = lct.attach_critics(model, data.example, num_outputs=data.num_outputs, groups=2)
    run = lct.train(network, data, lct.TrainConfig(epochs=4, batch_size=16), run_dir="runs/stripes")

    candidates = lct.evaluate(network, data.val, data.example)
    best = lct.select(candidates, lct.Budget(flops="60%"))
    samples, _ = next(data.val.batches(8))
    path = lct.export(network.subnetwork(best.exit), samples, "stripes.pt")
    print(f"{best.name}: {best.accuracy:.1%} on validation, {best.flops} FLOPs, exported to {path}")
