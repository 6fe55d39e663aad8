"""Accuracy against multiply-adds at equal total training compute: one run with local critics, and what else one can do.

    python benchmarks/peers.py --data FOLDER            # CIFAR-10 as a folder of images: hours
    python benchmarks/peers.py --quick                  # digits, to see that the script works
    python benchmarks/peers.py --draw A.csv B.csv       # table and picture again, of runs with different --parts

ResNet-18 of the width asked for, one recipe (that of `lctprune train`) and one data set for all. The compute of a
training is samples x forward MACs x 3 of everything trained, x 1 of what only runs forward (a frozen main network, a
teacher); all of the run with critics is 1. Beside its exits stand:
- added: what `densify` adds to that run, at its own further cost, which the table shows;
- fine-tuned: a run with critics for half of the compute, then its exits fine-tuned by `finetune` for the rest.
The peers may use as much for all of their networks together (`compute in all`), as much for each of them (`compute
each`), or as many epochs for each (`epochs each`):
- joint: deep supervision, the same exits with all gradients through the whole network;
- Torch-Pruning (pip install 'lctprune[bench]'): backpropagation for half of the compute, then DepGraph pruning to the
  MACs of each exit, and fine-tuning for the rest;
- truncated: the architecture of each exit, trained alone by backpropagation;
- narrower: ResNet-18s with fewer channels, of at most the MACs of each exit, trained alone.
Each method's front is chosen on the validation split; the test split is read for the figures reported, and only there.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from pathlib import Path

import torch
from common import describe_scale, load, make_quick, scale_options, write_csv
from peers_experiment import Experiment
from peers_pruning import VARIANTS
from peers_report import (
    EACH,
    EPOCHS,
    WHOLE,
    Measured,
    draw,
    print_comparison,
    print_table,
    read_measured,
    summarised,
)

BUDGETS = (WHOLE, EACH, EPOCHS)
PARTS = ("lctprune", "fine-tuned", "joint", "pruned", "truncated", "narrower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scale_options(parser, images=10_000, width=16, epochs=10, seeds=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=BUDGETS, metavar="BUDGET", help="of the peers")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["l1-uniform", "bn-global"])
    parser.add_argument("--finetune-lr", type=float, default=0.005, help="highest rate of fine-tuning")
    parser.add_argument("--finetune-distill", nargs="+", type=float, default=[0.0, 0.5], help="as of lctprune finetune")
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


if __name__ == "__main__":
    main()
