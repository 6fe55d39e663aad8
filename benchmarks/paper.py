"""The paper's tables on its own network, at a scale and with a schedule that are stated, beside the paper's figures.

    python benchmarks/paper.py --data FOLDER            # CIFAR-10 as a folder of images: hours
    python benchmarks/paper.py --quick                  # digits, to see that the script works

Network `vgg-lct`, `paper` critics, matching 1, SGD with the step schedule, Adam at a constant rate for critics, no
label smoothing: the paper's settings (section IV), but for the length of training, the number of images and the width,
which scales the critics' convolution (128 channels at a width of 64) with the network. Prints test accuracy after the
last epoch, mean and deviation over seeds; nothing is chosen by it.
- Table 1: the main network by backpropagation, and with 1, 3 and 5 critics
- Table 3: the main network with 3 critics, updated in every k-th step only
- Table 4: the sub-networks of the runs with 3 critics, and their architectures by backpropagation from equal weights
- Figure 4b: exits whose softmax outputs are averaged
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from common import (
    describe_scale,
    exit_accuracies,
    load,
    macs,
    make_quick,
    mean_and_deviation,
    scale_options,
    trained,
    write_csv,
)

import lctprune as lct
from lctprune.measure.group_costs import group_costs
from lctprune.models.build import fitted
from lctprune.utils.modules import evaluation_mode

# where Table 1 puts 1, 3 and 5 critics: at that of LC2, after the first three stages, after every two convolutions
CUTS = {
    0: (),
    1: ("stage2",),
    3: ("stage1", "stage2", "stage3"),
    5: ("stage1", "stage2.5", "stage3.2", "stage3", "stage4.5"),
}
PERIODS = (1, 2, 3, 4, 5)
# CIFAR-10, mean and deviation of 5 runs of 80,000 steps. They were read in the paper's forerunner of 2018, "Local
# Critic Training of Deep Neural Networks" (openreview.net/forum?id=B1x-LjAcKX), whose tables are numbered as the
# paper's (arXiv 2102.01963) and give the same gains of sub-networks; the paper's own text was not at hand.
SOURCE = "theirs: CIFAR-10, 5 runs of 80,000 steps at width 64; openreview.net/forum?id=B1x-LjAcKX, of 2018"
PAPER = {
    "BP": "93.93 ± 0.20",
    "LC (1)": "92.06 ± 0.20",
    "LC (3)": "92.39 ± 0.09",
    "LC (5)": "91.38 ± 0.20",
    "LC (3), period 2": "91.91 ± 0.19",
    "LC (3), period 3": "91.78 ± 0.18",
    "LC (3), period 4": "91.57 ± 0.12",
    "LC (3), period 5": "91.35 ± 0.17",
    "BP sub 1": "74.46 ± 0.91",
    "BP sub 2": "88.03 ± 0.87",
    "BP sub 3": "92.05 ± 0.24",
    "LC sub 1": "85.24 ± 0.49",
    "LC sub 2": "90.53 ± 0.15",
    "LC sub 3": "92.29 ± 0.09",
    "ensemble 1+2+3": "92.68",
    "ensemble 1+2+3+main": "92.79",
}
PAPER_GAINS = {"sub 1": "+10.8", "sub 2": "+2.5", "sub 3": "+0.2"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scale_options(parser, images=10_000, width=16, epochs=15, seeds=2)
    parser.add_argument("--tables", nargs="+", choices=["1", "3", "4"], default=["1", "3", "4"])
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="for paper.csv and the runs")
    arguments = parser.parse_args()
    make_quick(arguments)
    if arguments.quick:  # without touching what a real run left
        arguments.out /= "quick"
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = load(arguments)
    print(f"vgg-lct, paper critics; {describe_scale(arguments, data)}", flush=True)
    rows: list[dict[str, object]] = []
    for seed in range(arguments.seeds):
        for row in one_seed(arguments, data, seed):
            rows.append(row)
            write_csv(arguments.out / "paper.csv", rows)  # after every training, as a run takes hours
    print_tables(rows)
    print(f"\nevery training: {arguments.out}/paper.csv")


class Experiment:
    """All trainings of one seed, at one scale."""

    def __init__(self, arguments: argparse.Namespace, data: lct.Data, seed: int) -> None:
        self.data, self.seed, self.width, self.epochs = data, seed, arguments.width, arguments.epochs
        self.folder = arguments.out / f"seed-{seed}"

    def new_network(self, critics: int) -> lct.LocalCriticNetwork:
        """With weights by the seed."""
        torch.manual_seed(self.seed)
        config = lct.NetworkConfig(
            model="vgg-lct",
            model_args={"width": self.width},
            critic="paper",
            critic_width=(self.width / 64,) * critics or None,
            groups=critics + 1,
            split_at=CUTS[critics] or None,
        )
        return lct.build_network(fitted(config, self.data))

    def train(self, name: str, network: lct.LocalCriticNetwork, critic_period: int = 1) -> dict[str, object]:
        """The row of one training."""
        config = lct.TrainConfig(
            method="local-critic" if network.critics else "backprop",
            epochs=self.epochs,
            batch_size=128,
            optimizer="sgd",
            lr=0.1,
            schedule="step",
            label_smoothing=0.0,
            matching=1.0,
            distill=0.0,
            critic_optimizer="adam",
            critic_period=critic_period,
            seed=self.seed,
        )
        seconds = trained(network, config, self.data, run_dir=self.folder / name.replace(" ", "-")).seconds
        row = self.row(name, network, exit_accuracies(network, self.data.test)[-1], len(network.groups) - 1)
        print(f"  seed {self.seed}  {name:18} {row['test']:.4f}  {seconds:.0f} s", flush=True)
        return {**row, "seconds": round(seconds)}

    def row(self, name: str, network: lct.LocalCriticNetwork, accuracy: float, exit: int) -> dict[str, object]:
        """Of one exit of a trained network."""
        own = macs(network, self.data.example)[exit]
        return {"name": name, "seed": self.seed, "test": round(accuracy, 5), "macs": own, "seconds": ""}


def one_seed(arguments: argparse.Namespace, data: lct.Data, seed: int) -> list[dict[str, object]]:
    """The rows of the tables that are asked for."""
    experiment = Experiment(arguments, data, seed)
    network = experiment.new_network(3)
    rows = [experiment.train("LC (3)", network)]
    if "1" in arguments.tables:
        rows += [
            experiment.train(f"LC ({critics})" if critics else "BP", experiment.new_network(critics))
            for critics in (0, 1, 5)
        ]
    if "3" in arguments.tables:
        rows += [experiment.train(f"LC (3), period {k}", experiment.new_network(3), k) for k in PERIODS[1:]]
    if "4" in arguments.tables:
        for exit, accuracy in enumerate(exit_accuracies(network, data.test)[:-1]):
            rows.append(experiment.row(f"LC sub {exit + 1}", network, accuracy, exit))
            alone = lct.LocalCriticNetwork([experiment.new_network(3).subnetwork(exit)])
            rows.append(experiment.train(f"BP sub {exit + 1}", alone))
        for size, accuracy in enumerate(ensemble_accuracies(network, data.test), start=1):
            members = [str(member) for member in range(1, size + 1)]
            members[3:] = ["main"] * (size > 3)
            row = experiment.row(f"ensemble {'+'.join(members)}", network, accuracy, size - 1)
            rows.append({**row, "macs": ensemble_macs(network, data, size)})
    return rows


def ensemble_accuracies(network: lct.LocalCriticNetwork, split: lct.Split) -> list[float]:
    """Of the first 1, 2, ... exits together, their softmax outputs averaged."""
    right = torch.zeros(len(network.groups))
    with evaluation_mode(network), torch.inference_mode():
        for inputs, targets in split.batches(256):
            outputs = torch.stack([output.softmax(1) for output in network.exits(inputs)])
            right += (outputs.cumsum(0).argmax(2) == targets).sum(1)
    return [float(count) / len(split.targets) for count in right]


def ensemble_macs(network: lct.LocalCriticNetwork, data: lct.Data, size: int) -> int:
    """Of the first `size` exits together: each group once, and each critic."""
    costs = group_costs(network, data.example)[:size]
    return sum(group.flops + group.critic_flops for group in costs) // 2


def print_tables(rows: list[dict[str, object]]) -> None:
    """Test accuracy in percent beside the paper's."""
    print(f"\n{SOURCE}")
    tables: Mapping[str, list[str]] = {
        "Table 1: the main network": ["BP", "LC (1)", "LC (3)", "LC (5)"],
        "Table 3: critics updated in every k-th step": ["LC (3)", *(f"LC (3), period {k}" for k in PERIODS[1:])],
        "Table 4: sub-networks": [f"{method} sub {number}" for number in (1, 2, 3) for method in ("BP", "LC")],
        "Figure 4b: ensembles": ["ensemble 1", "ensemble 1+2", "ensemble 1+2+3", "ensemble 1+2+3+main", "LC (3)"],
    }
    for title, names in tables.items():
        if not any(row["name"] in names for row in rows if row["name"] != "LC (3)"):
            continue
        print(f"\n{title}\n  {'':20} {'MACs':>8}  {'test accuracy':15} {'runs':>4}   theirs")
        for name in names:
            own = [row for row in rows if row["name"] == name]
            accuracy = mean_and_deviation([float(str(row["test"])) for row in own])
            millions = f"{int(str(own[0]['macs'])) / 1e6:.1f}M"
            print(f"  {name:20} {millions:>8}  {accuracy:15} {len(own):>4}   {PAPER.get(name, '')}")
    means = {name: [float(str(row["test"])) for row in rows if row["name"] == name] for name in PAPER}
    for sub, theirs in PAPER_GAINS.items():
        if means[f"LC {sub}"]:
            gains = [one - other for one, other in zip(means[f"LC {sub}"], means[f"BP {sub}"], strict=True)]
            difference = mean_and_deviation(gains).rstrip("%")
            print(f"  LC {sub} against BP {sub}: {difference} points; theirs {theirs}")


if __name__ == "__main__":
    main()
