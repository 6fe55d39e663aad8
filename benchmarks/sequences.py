"""Compare sub-networks of sequence networks with backpropagation: the same data, schedule and seeds.

    python benchmarks/sequences.py DIR          # DIR: a folder with train.tsv and test.tsv
    python benchmarks/sequences.py --quick      # digits read row by row, narrow networks: to see that the script works

For each network prints the test accuracy of every exit, mean and deviation over the seeds, and that of the whole
network trained by backpropagation. Nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse

from common import exit_accuracies, mean_and_deviation, trained

import lctprune as lct
from lctprune.utils.environment import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits-rows", help="as --data of lctprune train")
    parser.add_argument("--models", nargs="+", default=["lstm", "transformer"])
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="narrow networks of 2 groups, 1 epoch, 1 seed")
    arguments = parser.parse_args()
    model_args = {}
    if arguments.quick:
        arguments.groups, arguments.epochs, arguments.seeds = 2, 1, 1
        model_args = {"layers": 2, "width": 16}
    data = lct.load_data(lct.DataConfig(name=arguments.data))
    print(f"{arguments.data}: {len(data.train.targets)} train, {len(data.test.targets)} test samples; {machine()}")
    for model in arguments.models:
        for groups in (arguments.groups, 1):
            accuracies, seconds = [], 0.0
            for seed in range(arguments.seeds):
                config = lct.TrainConfig(method="local-critic", epochs=arguments.epochs, seed=seed)
                run = trained(lct.NetworkConfig(model=model, model_args=model_args, groups=groups), config, data)
                accuracies.append(exit_accuracies(run.network, data.test))
                seconds += run.seconds
            method = "backprop" if groups == 1 else f"{groups} groups"
            exits = "  ".join(mean_and_deviation(column) for column in zip(*accuracies, strict=True))
            print(f"{model:12} {method:9} {exits}   {seconds / arguments.seeds:.0f} s a run", flush=True)


if __name__ == "__main__":
    main()
