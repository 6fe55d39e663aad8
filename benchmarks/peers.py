"""Accuracy against multiply-adds at equal total training compute: one run with local critics, and what else one can do.

    python benchmarks/peers.py --data FOLDER            # CIFAR-10 as a folder of images: hours
    python benchmarks/peers.py --quick                  # digits, to see that the script works
    python benchmarks/peers.py --draw A.csv B.csv       # table and picture again, of runs with different --parts

ResNet-18 of the width asked for, one recipe (that of `lctprune train`) and one data set for all. The compute of a
training is samples x forward MACs x 3 of everything trained, x 1 of what only runs forward (a frozen main network, a
teacher); all of the run with critics is 1. Beside its exits stand:
- added: what `densify` adds to that run, at its own further cost, which the table shows;
- fine-tuned: a run with critics for half of the compute, then each exit fine-tuned by `finetune` for the rest.
The peers, each of whose networks alone may use as much as the whole family did (`equal compute`), or as many epochs
(`equal epochs`):
- joint: deep supervision, the same exits with all gradients through the whole network;
- Torch-Pruning (pip install 'lctprune[bench]'): backpropagation for half of the compute, then DepGraph pruning to the
  MACs of each exit, and fine-tuning for the rest;
- truncated: the architecture of each exit, trained alone by backpropagation;
- narrower: ResNet-18s with fewer channels, of at most the MACs of each exit, trained alone, with equal compute.
Each method's front is chosen on the validation split; the test split is read for the figures reported, and only there.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from common import describe_scale, exit_accuracies, load, macs, make_quick, scale_options, trained, write_csv
from peers_pruning import VARIANTS, pruned_to, without_crash
from peers_report import (
    ADDED,
    COMPUTE,
    EPOCHS,
    OURS,
    TUNED,
    Measured,
    draw,
    print_comparison,
    print_table,
    read_measured,
    summarised,
)
from torch import nn

import lctprune as lct
from lctprune.costs import group_costs
from lctprune.image_networks import LEAST_RESNET_WIDTH
from lctprune.models import build_model, fitted

PARTS = ("lctprune", "fine-tuned", "joint", "pruned", "truncated", "narrower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scale_options(parser, images=10_000, width=16, epochs=10, seeds=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["l1-uniform", "bn-global"])
    parser.add_argument("--finetune-lr", type=float, default=0.05, help="highest rate of fine-tuning")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="for peers.csv and the runs")
    parser.add_argument("--picture", type=Path, default=Path("docs/peers.svg"))
    parser.add_argument("--draw", nargs="+", type=Path, metavar="CSV", help="train nothing, show what these hold")
    parser.add_argument("--subtitle", default="", help="of the picture, with --draw; otherwise it states the scale")
    arguments = parser.parse_args()
    if arguments.draw:
        report(read_measured(arguments.draw), arguments.picture, arguments.subtitle)
        return
    if "pruned" in arguments.parts and importlib.util.find_spec("torch_pruning") is None:
        parser.error("torch_pruning is missing; pip install 'lctprune[bench]', or leave pruned out of --parts")
    make_quick(arguments)
    if arguments.quick:  # without touching what a real run left
        arguments.out /= "quick"
        arguments.picture, arguments.groups = arguments.out / "peers.svg", 2
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = load(arguments)
    print(f"resnet18, batch {arguments.batch_size}; {describe_scale(arguments, data)}", flush=True)
    rows: list[Measured] = []
    for seed in range(arguments.seeds):
        for row in Experiment(arguments, data, seed).rows():
            rows.append(row)
            write_csv(arguments.out / "peers.csv", [dataclasses.asdict(each) for each in rows])
            print(
                f"  seed {seed}  {row.method:20} {row.name:26} {row.budget:14} val {row.val:.4f}  {row.seconds:.0f} s"
            )
    shape = " x ".join(str(side) for side in data.example.shape[2:])
    subtitle = (
        f"ResNet-18, width {arguments.width}; {Path(arguments.data).name}, {len(data.train.targets)} training images "
        f"of {shape}; {arguments.epochs} epochs with critics; {arguments.seeds} seeds"
    )
    report(rows, arguments.picture, subtitle)


def report(rows: list[Measured], picture: Path, subtitle: str) -> None:
    points = summarised(rows)
    print_table(points)
    print_comparison(points)
    draw(points, picture, subtitle)
    print(f"\n{picture}")


def training_macs(samples: int, trained: int, frozen: int = 0) -> int:
    """Multiply-adds of training: forward and two backward ones of what is trained, forward only of what is frozen."""
    return samples * (3 * trained + frozen)


class Experiment:
    """All trainings of one seed."""

    def __init__(self, arguments: argparse.Namespace, data: lct.Data, seed: int) -> None:
        self.arguments, self.data, self.seed = arguments, data, seed
        family = self.family()
        self.exit_macs = macs(family)
        whole = sum(costs.flops + costs.critic_flops for costs in group_costs(family, data.example)) // 2
        self.epoch_samples = len(data.train.targets)
        self.compute = training_macs(arguments.epochs * self.epoch_samples, whole)

    def rows(self) -> Iterator[Measured]:
        """Of all parts that are asked for, each as it is trained."""
        epochs = self.arguments.epochs
        if "lctprune" in self.arguments.parts:
            yield from self.dense()
        if "fine-tuned" in self.arguments.parts:
            yield from self.finetuned()
        if "joint" in self.arguments.parts:
            config = self.config(epochs, method="joint")
            yield from self.measure("joint", "exit", COMPUTE, self.family(), config, self.compute)
        if "pruned" in self.arguments.parts:
            yield from self.pruned()
        if "truncated" in self.arguments.parts:
            for exit in range(self.arguments.groups):
                for budget in (COMPUTE, EPOCHS):
                    yield from self.plain("truncated", f"of exit {exit}", budget, self.truncated(exit))
        if "narrower" in self.arguments.parts:
            for width in dict.fromkeys(map(self.width_for, self.exit_macs[:-1])):
                yield from self.plain("narrower", f"width {width}", COMPUTE, self.model(width))

    def dense(self) -> Iterator[Measured]:
        """The run with critics, and what is added to it."""
        network, epochs = self.family(), self.arguments.epochs
        run, seconds = self.train(f"{OURS} {epochs}", network, self.config(epochs, method="local-critic"))
        yield from self.measured(OURS, "exit", COMPUTE, network, epochs, self.compute, seconds)
        start = time.perf_counter()
        run = lct.densify(run, data=self.data)
        seconds, network = time.perf_counter() - start, lct.load_network(run)
        costs = group_costs(network, self.data.example)
        critics, frozen = (sum(each) // 2 for each in zip(*((c.critic_flops, c.flops) for c in costs), strict=True))
        cost = training_macs(run.epochs_done * self.epoch_samples, critics, frozen)
        added = list(self.measured(ADDED, "exit", COMPUTE, network, run.epochs_done, self.compute + cost, seconds))
        yield from added[:-1]  # the last is the main network again

    def finetuned(self) -> Iterator[Measured]:
        """Half of the compute for a run with critics, as much again to fine-tune each exit."""
        network = self.family()
        epochs = max(1, round(self.arguments.epochs / 2))
        run, _ = self.train(f"{OURS} {epochs}", network, self.config(epochs, method="local-critic"))
        rest = self.compute - self.compute * epochs // self.arguments.epochs
        for exit, own in enumerate(self.exit_macs):
            further = max(1, round(rest / training_macs(self.epoch_samples, own, self.exit_macs[-1])))
            start = time.perf_counter()
            tuned = lct.finetune(run, exit, data=self.data, epochs=further, lr=self.arguments.finetune_lr)
            seconds = time.perf_counter() - start
            cost = self.compute - rest + training_macs(further * self.epoch_samples, own, self.exit_macs[-1])
            yield from self.measured(TUNED, f"exit {exit}", COMPUTE, lct.load_network(tuned), further, cost, seconds)

    def plain(self, method: str, name: str, budget: str, model: nn.Module) -> Iterator[Measured]:
        """A network trained by backpropagation, with equal compute or for equal epochs."""
        network = lct.LocalCriticNetwork([without_crash(model)])
        epochs = self.arguments.epochs if budget == EPOCHS else self.affordable(self.compute, network)
        yield from self.measure(method, name, budget, network, self.config(epochs), self.cost(epochs, network))

    def pruned(self) -> Iterator[Measured]:
        """Half of the compute for the main network, as much again to fine-tune each pruned one."""
        main = lct.LocalCriticNetwork([self.model(self.arguments.width)])
        epochs = self.affordable(self.compute // 2, main)
        self.train("to be pruned", main, self.config(epochs))
        spent = self.cost(epochs, main)
        for variant in self.arguments.variants:
            for exit, budget in enumerate(self.exit_macs[:-1]):
                model = pruned_to(budget, copy.deepcopy(main.groups[0]), self.data.example, variant)
                network = lct.LocalCriticNetwork([without_crash(model)])
                epochs = self.affordable(self.compute - spent, network)
                config = self.config(epochs, lr=self.arguments.finetune_lr)
                cost = spent + self.cost(epochs, network)
                yield from self.measure("Torch-Pruning", f"{variant} to exit {exit}", COMPUTE, network, config, cost)

    def measure(
        self, method: str, name: str, budget: str, network: lct.LocalCriticNetwork, config: lct.TrainConfig, cost: int
    ) -> Iterator[Measured]:
        """Train, and measure every exit."""
        _, seconds = self.train(f"{method} {name} {budget}", network, config)
        yield from self.measured(method, name, budget, network, config.epochs, cost, seconds)

    def train(self, name: str, network: lct.LocalCriticNetwork, config: lct.TrainConfig) -> tuple[lct.Run, float]:
        """The run, in a directory of that name, and its seconds."""
        folder = self.arguments.out / f"seed-{self.seed}" / name.replace(" ", "-")
        _, run, seconds = trained(network, config, self.data, run_dir=folder)
        return run, seconds

    def measured(
        self,
        method: str,
        name: str,
        budget: str,
        network: lct.LocalCriticNetwork,
        epochs: int,
        cost: int,
        seconds: float,
    ) -> Iterator[Measured]:
        """A row for every exit."""
        val, test = (exit_accuracies(network, split) for split in (self.data.val, self.data.test))
        for exit, own in enumerate(macs(network, self.data.example)):
            yield Measured(
                method=method,
                name=f"{name} {exit}" if network.critics else name,
                budget=budget,
                seed=self.seed,
                macs=own,
                epochs=epochs,
                compute=round(cost / self.compute, 4),
                val=round(val[exit], 5),
                test=round(test[exit], 5),
                seconds=round(seconds, 1),
            )

    def family(self) -> lct.LocalCriticNetwork:
        """The network with critics, new, with weights by the seed."""
        torch.manual_seed(self.seed)
        return lct.build_network(self.network_config(self.arguments.width))

    def truncated(self, exit: int) -> nn.Module:
        """One exit's architecture, new, with the weights that it has in the family."""
        return self.family().subnetwork(exit)

    def model(self, width: int) -> nn.Module:
        """The plain network, new; at the width asked for it has the weights of the family's main network."""
        torch.manual_seed(self.seed)
        return build_model(self.network_config(width))

    def network_config(self, width: int) -> lct.NetworkConfig:
        config = lct.NetworkConfig(model="resnet18", model_args={"width": width}, groups=self.arguments.groups)
        return fitted(config, self.data)

    def config(self, epochs: int, *, method: str = "backprop", lr: float | None = None) -> lct.TrainConfig:
        """The recipe."""
        batch_size = self.arguments.batch_size
        return lct.TrainConfig(method=method, epochs=epochs, lr=lr, batch_size=batch_size, seed=self.seed)

    def cost(self, epochs: int, network: lct.LocalCriticNetwork) -> int:
        """Of training a plain network."""
        return training_macs(epochs * self.epoch_samples, macs(network, self.data.example)[-1])

    def affordable(self, compute: int, network: lct.LocalCriticNetwork) -> int:
        """Epochs of a plain network, rounded."""
        return max(1, round(compute / self.cost(1, network)))

    def width_for(self, budget: int) -> int:
        """The greatest width whose MACs are within the budget, but at least the narrowest that there is."""
        widths = range(self.arguments.width, LEAST_RESNET_WIDTH, -1)
        return next((width for width in widths if self.model_macs(width) <= budget), LEAST_RESNET_WIDTH)

    def model_macs(self, width: int) -> int:
        return lct.count_flops(self.model(width), self.data.example) // 2


if __name__ == "__main__":
    main()
