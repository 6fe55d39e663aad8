"""Which settings of local critic training make the best family of sub-networks: one table, all at the same scale.

    python benchmarks/ablation.py --data DIR --seeds 2                     # all variants: hours on 2 cores
    python benchmarks/ablation.py --data DIR --only backprop matching      # those whose name begins with one of these
    python benchmarks/ablation.py --quick                                  # to see that the script works

A variant is trained with every seed: the same network (ResNet-18 of some width), data, epochs and schedule, and its own
objective, critics, groups or additions. Printed and written to a CSV file: accuracy of every exit on the validation
split, mean and deviation over the seeds; MACs of every exit; the time of training. `alone K` is the architecture of
exit K of 4 groups trained by backpropagation, by itself; `recipe, ...` is backpropagation with one setting changed. The
test split is not touched.

Three additions from the literature on local learning stand in this file alone, as they did not earn a place elsewhere:
- overlap: a critic begins with a copy of the next group's first block, trained as a part of the critic;
- momentum: the same, but the copy follows the next group as a moving average (Su et al. 2024, arXiv 2407.05623);
- rescaled: the gradients of group i of N are multiplied by 2 i / (N + 1), so that early groups change less.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import multiprocessing
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from common import describe_scale, exit_accuracies, load, macs, make_quick, mean_and_deviation, scale_options, trained
from torch import Tensor, nn

import lctprune as lct
from lctprune.critics import make_critic
from lctprune.models.build import fitted


class Variant(NamedTuple):
    """What differs from the defaults."""

    network: Mapping[str, Any] = MappingProxyType({})
    training: Mapping[str, Any] = MappingProxyType({})
    addition: Callable[[lct.LocalCriticNetwork], lct.LocalCriticNetwork] | None = None


def variants() -> dict[str, Variant]:
    """By name, in the order of the table."""
    found = {
        "backprop": Variant({"groups": 1}, {"method": "backprop"}),
        "joint": Variant(training={"method": "joint"}),
        **{
            f"recipe, {name} {value:g}": Variant({"groups": 1}, {"method": "backprop", name: value})
            for name, value in (
                ("label_smoothing", 0.2),
                ("weight_decay", 1e-3),
                ("weight_decay", 2.5e-4),
                ("lr", 0.03),
            )
        },
        **{f"alone {exit}": Variant({"exit": exit}, {"method": "backprop"}) for exit in range(3)},
        **{
            f"matching {m}": Variant(training={"matching": m, "distill": 0})
            for m in ("0", "0.25", "0.5", "1", "0:0.5", "0.5:0")
        },
        **{f"critics every {k} steps": Variant(training={"critic_period": k}) for k in (2, 5)},
        **{f"distill {d}": Variant(training={"matching": 0, "distill": d}) for d in ("0.5", "0:0.5", "0:0.9")},
        "critics by adam": Variant(training={"critic_optimizer": "adam"}),
    }
    for width, depth in itertools.product((0.5, 1.0, 2.0), (1, 2)):
        found[f"tail {width:g} wide {depth} deep"] = Variant({"critic_width": (width,), "critic_depth": (depth,)})
    for kind in ("pooled", "paper"):  # as many channels as go with the network's width
        found[f"{kind} critics"] = Variant({"critic": kind, "critic_width": ()})
    found["paper critics by adam"] = Variant(found["paper critics"].network, {"critic_optimizer": "adam"})
    found |= {f"{groups} groups": Variant({"groups": groups}) for groups in (2, 3, 8)}
    found |= {f"{groups} groups, balanced by time": Variant({"groups": groups, "balance": "time"}) for groups in (2, 4)}
    return found | {
        "overlap": Variant(addition=overlapping),
        "momentum": Variant(addition=following),
        "rescaled": Variant(training={"optimizer": "sgd"}, addition=rescaled),  # Muon takes no notice of a scale
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scale_options(parser, images=8000, width=16, epochs=6, seeds=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--only", nargs="+", default=[""], help="variants by name, or by how it begins")
    parser.add_argument("--processes", type=int, default=1, help="trainings side by side, of --threads each")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/ablation.csv"),
        help="rows are added; what is there is kept; the runs stand beside it",
    )
    arguments = parser.parse_args()
    make_quick(arguments)
    names = chosen(arguments.only)
    done = {(row["variant"], int(row["seed"])) for row in read(arguments.out, scale(arguments))}
    todo = [each for each in itertools.product(names, range(arguments.seeds)) if each not in done]
    todo.sort(key=lambda each: each[1])  # one seed after the other: an early end leaves whole tables
    print(describe_scale(arguments, load(arguments)))
    print(f"batch {arguments.batch_size}, {len(todo)} trainings, {arguments.processes} at a time", flush=True)
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=spawning) as pool:
        for row in pool.map(run, todo, itertools.repeat(arguments)):
            add(arguments.out, row)
            print(f"  {row['variant']}, seed {row['seed']}: {row['accuracies']} in {row['seconds']} s", flush=True)
    print_table([row for row in read(arguments.out, scale(arguments)) if row["variant"] in names])


def scale(arguments: argparse.Namespace) -> str:
    """What all rows of one table have in common."""
    names = ("data", "images", "val_images", "image_size", "shift", "width", "epochs", "batch_size")
    config = lct.TrainConfig().resolved()
    settings = {name: getattr(arguments, name) for name in names} | {"optimizer": config.optimizer, "lr": config.lr}
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def chosen(wanted: Sequence[str]) -> list[str]:
    """Names of variants, in the order in which they are wanted."""
    known = list(variants())
    found = [[each] if each in known else [name for name in known if name.startswith(each)] for each in wanted]
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def run(which: tuple[str, int], arguments: argparse.Namespace) -> dict[str, object]:
    """Train one variant with one seed: a row of the CSV file."""
    name, seed = which
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = load(arguments)
    variant = variants()[name]
    changes = dict(variant.network)
    if changes.get("critic_width") == ():
        changes["critic_width"] = (arguments.width / 64,)
    recipe = fitted(lct.NetworkConfig(model="resnet18", model_args={"width": arguments.width}, **changes), data)
    config = lct.TrainConfig(epochs=arguments.epochs, batch_size=arguments.batch_size, seed=seed, **variant.training)
    torch.manual_seed(seed)
    network = lct.build_network(recipe)
    if variant.addition is not None:
        network = variant.addition(network)
    seconds = trained(network, config, data, run_dir=run_directory(arguments, name, seed)).seconds
    return {
        "scale": scale(arguments),
        "variant": name,
        "seed": seed,
        "accuracies": " ".join(f"{accuracy:.4f}" for accuracy in exit_accuracies(network, data.val)),
        "macs": " ".join(str(each) for each in macs(network, recipe.example)),
        "seconds": round(seconds),
    }


def run_directory(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    """Of one variant and seed, beside the CSV file."""
    parts = (scale(arguments), f"{name} {seed}")
    return arguments.out.with_suffix("").joinpath(*(re.sub(r"[^\w.]+", "-", part) for part in parts))


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """A line a variant: every exit's validation accuracy and MACs, and how long training took."""
    print(f"\n{'variant':32} {'n':>2}  {'validation accuracy (MACs) of each exit, shallowest first':80}  time")
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        columns = zip(*([float(each) for each in row["accuracies"].split()] for row in own), strict=True)
        costs = [int(each) / 1e6 for each in own[0]["macs"].split()]
        exits = "  ".join(
            f"{mean_and_deviation(column)} ({cost:.1f}M)" for column, cost in zip(columns, costs, strict=True)
        )
        seconds = statistics.mean(float(row["seconds"]) for row in own)
        print(f"{name:32} {len(own):2}  {exits:80}  {seconds:.0f} s")


def read(path: Path, wanted: str) -> list[dict[str, str]]:
    """Rows that are there already, of that scale."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["scale"] == wanted]


def add(path: Path, row: dict[str, object]) -> None:
    """Append a row, behind a header if it is the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


# --- additions from the literature ------------------------------------------------------------------------------------


def overlapping(network: lct.LocalCriticNetwork) -> lct.LocalCriticNetwork:
    """Each critic begins with a copy of the next group's first block."""
    return with_blocks(network, copy.deepcopy)


def following(network: lct.LocalCriticNetwork) -> lct.LocalCriticNetwork:
    """Each critic begins with a moving average of the next group's first block."""
    return with_blocks(network, MovingAverage)


class MovingAverage(nn.Module):
    """A module whose parameters follow another one's: at each training step by a hundredth."""

    def __init__(self, followed: nn.Module) -> None:
        super().__init__()
        self._followed = [followed]  # in a list: no part of this module
        self.average = copy.deepcopy(followed).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                pairs = zip(self.average.parameters(), self._followed[0].parameters(), strict=True)
                for own, other in pairs:
                    own.lerp_(other, 0.01)
        return self.average(x)  # type: ignore[no-any-return]


def with_blocks(network: lct.LocalCriticNetwork, block_of: Callable[[nn.Module], nn.Module]) -> lct.LocalCriticNetwork:
    """The same groups, with critics of a block like the next group's first one, and a tail of half the width."""
    recipe = network.recipe
    assert recipe is not None
    names = [f"layer{stage}.0" for stage in range(2, 2 + len(network.critics))]  # default cuts: after each stage
    critics = []
    x = recipe.example
    for group, following_group, name in zip(network.groups, network.groups[1:], names, strict=False):
        x = group.eval()(x)
        block = following_group.get_submodule(name)
        basic = BasicBlock(block)
        shape = basic.eval()(x).shape[1:]
        critics.append(nn.Sequential(block_of(basic), make_critic("tail", shape, recipe.num_outputs, width=0.5)))
    return lct.LocalCriticNetwork(network.groups, critics)


class BasicBlock(nn.Module):
    """A residual block of a cut network, whose modules stand below one name, as a module that runs alone."""

    def __init__(self, parts: nn.Module) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        own = dict(self.parts.named_modules())
        out = own["bn2"](own["conv2"](own["bn1"](own["conv1"](x)).relu()))
        shortcut = own["downsample.1"](own["downsample.0"](x))
        return (out + shortcut).relu()  # type: ignore[no-any-return]


def rescaled(network: lct.LocalCriticNetwork) -> lct.LocalCriticNetwork:
    """Gradients of group i of N are multiplied by 2 i / (N + 1)."""
    count = len(network.groups)
    for index, group in enumerate(network.groups, start=1):
        for parameter in group.parameters():
            parameter.register_hook(lambda gradient, factor=2 * index / (count + 1): gradient * factor)
    return network


if __name__ == "__main__":
    main()
