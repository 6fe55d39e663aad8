"""Accuracy of a trained network after fine-tuning: optimisers x multiples of their default rates x seeds.

    PYTHONPATH=DIR python benchmarks/finetuning.py cifar_resnets:resnet20 --weights FILE --data FOLDER
    python benchmarks/finetuning.py timm/tf_efficientnet_lite0 --weights FILE --data FOLDER --image-size 64
    python benchmarks/finetuning.py --quick             # a tiny network on digits, to see that the script works

Trains the plain network (one group) on part of the training images, the same for every seed, with the settings that
`lctprune train --weights` takes by itself, except the optimiser and its rate; a new classifier learns at the default of
the optimiser. Prints the mean and the standard error over seeds, on part of the test split and on as many other images
of it; and writes a row per training.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from common import exit_accuracies, make_quick, part_of, scale_options, trained, write_csv
from safetensors.torch import save_file
from torch import Tensor

import lctprune as lct
from lctprune.config.training import FINETUNING_LR
from lctprune.data.held_out import stratified
from lctprune.models.build import fitted
from lctprune.utils.environment import machine

MULTIPLES = (0.3, 1.0, 3.0)


class Task(NamedTuple):
    """What is trained, and on what.

    Attributes:
        data: data set; its training split is the part that is trained on, its validation split the first test images,
            its test split as many others.
        recipe: settings of the network, fitted to the data.
        weights: file of its weights.
    """

    data: lct.Data
    recipe: lct.NetworkConfig
    weights: str

    def network(self, seed: int) -> lct.LocalCriticNetwork:
        """Build the network from its weights; a new classifier depends on the seed."""
        torch.manual_seed(seed)
        return lct.build_network(self.recipe, weights=self.weights)

    def scores(self, network: lct.LocalCriticNetwork) -> dict[str, float]:
        """Measure the accuracy on both parts of the test split."""
        return {
            "first": exit_accuracies(network, self.data.val)[-1],
            "rest": exit_accuracies(network, self.data.test)[-1],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="resnet18", help="as MODEL of lctprune train")
    parser.add_argument("--weights", help="file of its weights")
    scale_options(parser, images=1000, width=0, epochs=1, seeds=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--optimizers", nargs="+", choices=FINETUNING_LR, default=list(FINETUNING_LR))
    parser.add_argument("--mean", type=float, nargs="+", help="of each channel, for the weights")
    parser.add_argument("--std", type=float, nargs="+", help="of each channel, for the weights")
    parser.add_argument("--out", type=Path, default=Path("finetuning.csv"), help="a row per training")
    arguments = parser.parse_args()
    make_quick(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        task = task_of(arguments)
        if arguments.quick:
            task = task._replace(weights=untrained(task.recipe, Path(folder) / "weights.safetensors"))
        sizes = f"{len(task.data.train.targets)} training, {len(task.data.val.targets)} first and "
        print(f"{arguments.model}, {arguments.epochs} epochs, {arguments.seeds} seeds; {machine()}")
        print(f"{sizes}{len(task.data.test.targets)} other test images")
        before = task.scores(task.network(0))
        print(f"before: {before['first']:.1%} of the first, {before['rest']:.1%} of the other test images", flush=True)
        rows = []
        for choice in itertools.product(arguments.optimizers, MULTIPLES, range(arguments.seeds)):
            rows.append(finetuned(task, arguments, *choice))
            write_csv(arguments.out, rows)
    print_table(rows)


def untrained(recipe: lct.NetworkConfig, path: Path) -> str:
    """Write the weights of a new network, to have any."""
    weights = lct.build_network(recipe).main_state_dict()
    save_file({name: each.contiguous() for name, each in weights.items()}, path)
    return str(path)


def task_of(arguments: argparse.Namespace) -> Task:
    """Load the data, and say how the network is built."""
    mean, std = (values and tuple(values) for values in (arguments.mean, arguments.std))
    config = lct.DataConfig(name=arguments.data, image_size=arguments.image_size, mean=mean, std=std)
    data = lct.load_data(config)
    count = arguments.val_images or len(data.test.targets) // 2
    rest, first = (taken(data.test, part) for part in stratified(data.test.targets, count / len(data.test.targets), 0))
    data = dataclasses.replace(data, train=part_of(data.train, arguments.images), val=first, test=part_of(rest, count))
    model_args = {"width": arguments.width} if arguments.width else {}
    recipe = lct.NetworkConfig(model=arguments.model, model_args=model_args, groups=1)
    return Task(data, fitted(recipe, data), arguments.weights)


def taken(split: lct.Split, chosen: Tensor) -> lct.TensorSplit:
    """Take some samples of a split in memory."""
    assert isinstance(split, lct.TensorSplit), "images of up to 96 pixels a side are held in memory"
    return lct.TensorSplit(split.inputs[chosen], split.targets[chosen], split.normalization)


def finetuned(task: Task, arguments: argparse.Namespace, optimizer: str, multiple: float, seed: int) -> dict[str, Any]:
    """Train the network once; return a row."""
    config = lct.TrainConfig(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        optimizer=cast(Any, optimizer),
        lr=multiple * FINETUNING_LR[optimizer],
        method="backprop",
        seed=seed,
    )
    done = trained(task.network(seed), config, task.data)
    row = {"optimizer": optimizer, "lr": config.lr, "seed": seed, "seconds": round(done.seconds, 1)}
    return row | task.scores(done.network)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the mean and the standard error over seeds, a line per optimiser and rate."""
    print("| `--optimizer` | `--lr` | first test images | other test images |\n|---|---|---|---|")
    for (optimizer, lr), group in itertools.groupby(rows, lambda row: (row["optimizer"], row["lr"])):
        alike = list(group)
        cells = [mean_and_error([row[name] for row in alike]) for name in ("first", "rest")]
        print(f"| `{optimizer}` | {lr:g} | {' | '.join(cells)} |")


def mean_and_error(values: Sequence[float]) -> str:
    """Format fractions in percent, with the standard error of their mean; 0 of a single value."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * error:.1f}%"


if __name__ == "__main__":
    main()
