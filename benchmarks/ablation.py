"""Compare the settings of local critic training by the sub-networks they make: one table, all at the same scale.

    python benchmarks/ablation.py --data DIR --seeds 2                     # all variants: hours on 2 cores
    python benchmarks/ablation.py --data DIR --only backprop matching      # those whose name begins with one of these
    python benchmarks/ablation.py --quick                                  # four variants, to see that the script works

A variant is trained with every seed: the same network (ResNet-18 of some width), data, epochs and schedule, and its own
objective, critics or groups. Printed and written to a CSV file: accuracy of every exit on the validation
split, mean and deviation over the seeds; MACs of every exit; the time of training; and the differences from the default
with the same seed, with their standard errors. `alone K` is the architecture of exit K of 4 groups trained by
backpropagation, by itself; `recipe, ...` is backpropagation with one setting changed; `blocks B` is `--blocks B`, where
`blocks 1` is joint training with critics that distil. The test split is not touched.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import math
import multiprocessing
import re
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from common import describe_scale, exit_accuracies, load, macs, make_quick, mean_and_deviation, scale_options, trained

import lctprune as lct
from lctprune.models.build import fitted
from lctprune.utils.modules import device_of


class Variant(NamedTuple):
    """What differs from the defaults."""

    network: Mapping[str, Any] = MappingProxyType({})
    training: Mapping[str, Any] = MappingProxyType({})


DEFAULT = "distill 0:0.5"
DATA = ("data", "image_size", "images", "val_images")  # options that decide what is loaded
QUICK = ("backprop", DEFAULT, "alone 0", "2 groups", "blocks 2")


def variants() -> dict[str, Variant]:
    """Return all variants by name, in the order of the table."""
    found = {
        "backprop": Variant({"groups": 1}, {"method": "backprop"}),
        "joint": Variant(training={"method": "joint"}),
        **{f"blocks {blocks}": Variant(training={"blocks": blocks}) for blocks in (1, 2)},
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
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scale_options(parser, images=8000, width=16, epochs=6, seeds=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--only", nargs="+", default=[""], help="variants by name, or by how it begins")
    parser.add_argument("--processes", type=int, default=1, help="trainings side by side, of --threads each")
    parser.add_argument("--device", default="auto", help="as --device of lctprune train")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/ablation.csv"),
        help="rows are added; what is there is kept; the runs stand beside it",
    )
    arguments = parser.parse_args()
    make_quick(arguments)
    if arguments.quick:  # without touching what a real run left
        arguments.out = arguments.out.parent / "quick" / arguments.out.name
        arguments.out.unlink(missing_ok=True)
        arguments.only = QUICK
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
    rows = [row for row in read(arguments.out, scale(arguments)) if row["variant"] in names]
    print_table(rows)
    print_differences(rows)


def scale(arguments: argparse.Namespace) -> str:
    """Describe what all rows of one table have in common."""
    names = ("data", "images", "val_images", "image_size", "width", "epochs", "batch_size")
    config = lct.TrainConfig().resolved()
    settings = {name: getattr(arguments, name) for name in names} | {"optimizer": config.optimizer, "lr": config.lr}
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def chosen(wanted: Sequence[str]) -> list[str]:
    """Return the names of the variants that are wanted, in that order."""
    known = list(variants())
    found = [[each] if each in known else [name for name in known if name.startswith(each)] for each in wanted]
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def run(which: tuple[str, int], arguments: argparse.Namespace) -> dict[str, object]:
    """Train one variant with one seed: a row of the CSV file."""
    name, seed = which
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = loaded(*(getattr(arguments, name) for name in DATA))
    variant = variants()[name]
    changes = dict(variant.network)
    if changes.get("critic_width") == ():
        changes["critic_width"] = (arguments.width / 64,)
    recipe = fitted(lct.NetworkConfig(model="resnet18", model_args={"width": arguments.width}, **changes), data)
    training = {"method": "local-critic", "device": arguments.device, **variant.training}
    config = lct.TrainConfig(epochs=arguments.epochs, batch_size=arguments.batch_size, seed=seed, **training)
    torch.manual_seed(seed)
    network = lct.build_network(recipe)
    seconds = trained(network, config, data, run_dir=run_directory(arguments, name, seed)).seconds
    return {
        "scale": scale(arguments),
        "variant": name,
        "seed": seed,
        "accuracies": " ".join(f"{accuracy:.4f}" for accuracy in exit_accuracies(network, data.val)),
        "macs": " ".join(str(each) for each in macs(network, recipe.example.to(device_of(network)))),
        "seconds": round(seconds),
    }


@functools.cache
def loaded(*values: object) -> lct.Data:
    """Load the data once per process."""
    return load(argparse.Namespace(**dict(zip(DATA, values, strict=True))))


def run_directory(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    """Return the run directory of one variant and seed, beside the CSV file."""
    parts = (scale(arguments), f"{name} {seed}")
    folder: Path = arguments.out.with_suffix("")
    return folder.joinpath(*(re.sub(r"[^\w.]+", "-", part) for part in parts))


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Print a line per variant: every exit's validation accuracy and MACs, and how long training took."""
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


def differences(rows: Sequence[Mapping[str, str]]) -> dict[str, list[tuple[float, float, int]]]:
    """Compare each variant with the default, by the seeds of both.

    Returns:
        Per variant and exit: mean difference in points, its standard error (nan of a single seed), and the number of
        seeds. A single network is compared with the exit whose architecture it has; variants with other exits than the
        default's are left out.
    """
    own = {(row["variant"], row["seed"]): [*map(float, row["accuracies"].split())] for row in rows}
    found = {}
    for name in dict.fromkeys(row["variant"] for row in rows if row["variant"] != DEFAULT):
        seeds = [seed for variant, seed in own if variant == name and (DEFAULT, seed) in own]
        pairs = [(own[name, seed], own[DEFAULT, seed]) for seed in seeds]
        if not pairs or len(pairs[0][0]) not in (1, len(pairs[0][1])):
            continue
        exit = int(name.split()[1]) if name.startswith("alone") else -1
        compared = [
            [100 * (one - other) for one, other in zip(ours, theirs if len(ours) > 1 else [theirs[exit]], strict=True)]
            for ours, theirs in pairs
        ]
        found[name] = [(*_mean_and_error(column), len(column)) for column in zip(*compared, strict=True)]
    return found


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan


def print_differences(rows: Sequence[Mapping[str, str]]) -> None:
    """Print a line per variant: every exit's difference from the default in points, with its standard error."""
    print(f"\npoints more than `{DEFAULT}` with the same seed (standard error), shallowest exit first")
    for name, columns in differences(rows).items():
        told = "  ".join(f"{mean:+.2f} ({error:.2f})" for mean, error, _ in columns)
        print(f"{name:32} {columns[0][2]:2}  {told}")


def read(path: Path, wanted: str) -> list[dict[str, str]]:
    """Read the rows of that scale that the file has already."""
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


if __name__ == "__main__":
    main()
