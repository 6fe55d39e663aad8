"""What `densify` and `finetune` give for their time, against training a sub-network from scratch.

    python benchmarks/adding.py --data FOLDER            # CIFAR-10 as a folder of images: about half an hour a seed
    python benchmarks/adding.py --quick                  # digits, to see that the script works

For each seed: trains ResNet-18 of the width asked for with local critics; adds critics (`densify`, as many epochs as it
takes by itself); trains one exit on (`finetune`), with and without the main network as teacher; and trains that exit's
architecture from scratch by backpropagation, for as many epochs as the run, and for as much compute as the run and
fine-tuning took together. Compute is samples x forward MACs x 3 of everything trained, frozen networks x 1. Accuracies
are those of the validation split, mean and deviation over the seeds; the test split is not touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

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
from lctprune.costs import group_costs
from lctprune.models import fitted

ARMS = {"labels and teacher": 0.5, "labels only": 0.0}


class Row(NamedTuple):
    """One network of one seed."""

    name: str
    macs: int
    accuracy: float
    compute: float  # of its own training, the run's being 1
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scale_options(parser, images=8000, width=16, epochs=6, seeds=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--exit", type=int, default=1, help="which is trained on")
    parser.add_argument("--finetune-epochs", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/adding"), help="for adding.csv")
    arguments = parser.parse_args()
    make_quick(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = load(arguments.data, arguments.images, evaluated=arguments.eval_images)
    print(describe_scale(arguments, data), flush=True)
    rows: list[Mapping[str, object]] = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows += [{"seed": seed, **row._asdict()} for row in family_of(data, seed, Path(folder) / "run", arguments)]
        write_csv(arguments.out / "adding.csv", rows)
    print_table(rows)


def family_of(data: lct.Data, seed: int, folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """Everything that is made of one seed."""
    recipe = fitted(lct.NetworkConfig(model="resnet18", model_args={"width": arguments.width}), data)
    config = lct.TrainConfig(epochs=arguments.epochs, batch_size=arguments.batch_size, seed=seed)
    torch.manual_seed(seed)
    network = lct.build_network(recipe)
    start = time.perf_counter()
    run = lct.train(network, data, config, run_dir=folder)
    rows = rows_of(network, data, "", 1.0, time.perf_counter() - start)
    whole, main = step_macs(network) * config.epochs, macs(network)[-1]

    start = time.perf_counter()
    dense_run = lct.densify(run, data=data)
    dense = lct.load_network(dense_run)
    frozen = main + 3 * sum(cost.critic_flops for cost in group_costs(dense, data.example)) / 2
    added = rows_of(dense, data, "added: ", frozen * dense_run.epochs_done / whole, time.perf_counter() - start)[:-1]
    names = [f"added {origin}" for origin in dense_run.config["origin"]["exits"]]
    rows += [row._replace(name=name) for row, name in zip(added, names, strict=True)]

    exit_macs = macs(network)[arguments.exit]
    for arm, weight in ARMS.items():
        start = time.perf_counter()
        copied = lct.Run(shutil.copytree(folder, folder.with_name(arm)))
        tuned = lct.finetune(copied, arguments.exit, data=data, epochs=arguments.finetune_epochs, distill=weight)
        compute = (3 * exit_macs + (main if weight else 0)) * arguments.finetune_epochs / whole
        (row,) = rows_of(lct.load_network(tuned), data, f"fine-tuned, {arm}: ", compute, time.perf_counter() - start)
        rows.append(row._replace(name=f"exit {arguments.exit} fine-tuned, {arm}"))

    as_long = round((whole + max(row.compute for row in rows[-2:]) * whole) / (3 * exit_macs))
    for epochs in (arguments.epochs, as_long):
        alone = dataclasses.replace(recipe, exit=arguments.exit)
        start = time.perf_counter()
        scratch, _ = trained(alone, dataclasses.replace(config, method="backprop", epochs=epochs), data)
        (row,) = rows_of(scratch, data, "", 3 * exit_macs * epochs / whole, time.perf_counter() - start)
        rows.append(row._replace(name=f"exit {arguments.exit} from scratch, {epochs} epochs"))
    return rows


def step_macs(network: lct.LocalCriticNetwork) -> float:
    """Multiply-adds of one sample in a step of training."""
    assert network.recipe is not None
    return sum(3 * (cost.flops + cost.critic_flops) / 2 for cost in group_costs(network, network.recipe.example))


def rows_of(network: lct.LocalCriticNetwork, data: lct.Data, prefix: str, compute: float, seconds: float) -> list[Row]:
    """A row an exit."""
    accuracies, costs = exit_accuracies(network, data.val), macs(network, data.example)
    names = [*(f"exit {exit}" for exit in range(len(costs) - 1)), "main network"]
    return [
        Row(f"{prefix}{name}", cost, accuracy, compute, seconds)
        for name, cost, accuracy in zip(names, costs, accuracies, strict=True)
    ]


def print_table(rows: list[Mapping[str, object]]) -> None:
    """A line a network, in the order of their MACs within each part."""
    print(f"\n{'network':44} {'MACs':>8}  {'validation accuracy':20} {'compute':>8} {'time':>8}")
    for name in dict.fromkeys(str(row["name"]) for row in rows):
        own = [row for row in rows if row["name"] == name]
        accuracy = mean_and_deviation([float(str(row["accuracy"])) for row in own])
        compute = statistics.mean(float(str(row["compute"])) for row in own)
        seconds = statistics.mean(float(str(row["seconds"])) for row in own)
        print(f"{name:44} {int(str(own[0]['macs'])) / 1e6:7.1f}M  {accuracy:20} {compute:8.2f} {seconds:6.0f} s")


if __name__ == "__main__":
    main()
