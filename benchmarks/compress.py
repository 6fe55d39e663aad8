"""Compress one trained network to several budgets, beside other ways of spending the same training compute on it.

    python benchmarks/compress.py --network cifar_resnets:resnet56 --weights FILE --data DIR --mean ... --std ...
    python benchmarks/compress.py --quick --device cpu                  # toy size, to see that the script works
    python benchmarks/compress.py --draw compress.json                  # table, CSV and picture again

Compute is counted in epochs of the given network's training: three forward passes of it per training sample, one for
what only runs forward (a teacher, a frozen network). All ways get the same (--epochs), for one size, and the same data,
augmentation, batch size, precision and optimiser. What is chosen is chosen on the validation split:
- compress: `lctprune compress` as a whole, its choice of candidates paid for from its compute. Its parts are the best
  of each kind of candidate in the same run: exits, densified, narrowed, fine-tuned further;
- torch-pruning: Torch-Pruning's own pruner, then fine-tuning. Each criterion, rate, weight of distillation and number
  of passes that repeat (--views, as `compress` does) is a measurement of its own with all of the compute; the choice
  among them is free for it;
- scratch: the architecture that it leaves, trained from new weights, with and without distillation;
- plain head: the given network cut where the budget ends, with a pooling and a linear layer as its head, fine-tuned;
- published: other trained networks (--published NAME=FILE), as they are.

Every measurement is one training in a process, many side by side on one device. It is written to the JSON file as soon
as it is done, and not repeated when the script is run again; one that fails is recorded with its traceback, one that is
not reached in --minutes as such. With --minutes, compute is what fits at the pace that is measured first, under load,
and --epochs at most. Beside the JSON stand table, CSV and picture.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_pool import Pool
from gpu import make_importable

if TYPE_CHECKING:
    from compress_setting import Task
    from gpu_report import Report

WAYS = ("compress", "torch-pruning", "scratch", "plain head", "published")
CRITERIA = ("magnitude", "taylor")
RATES = (0.004, 0.016)  # the first is that of `compress`
NEW_RATE = 0.02  # of new networks
USABLE = 0.9  # fraction of the time left in which all trainings must fit
# what else a measurement takes: pruning and measuring; `compress` narrows several candidates, one after the other
FIXED_S = {"compress": 100.0, "torch-pruning": 20.0, "scratch": 20.0, "plain head": 20.0, "published": 5.0}
LAST_S = 5.0  # before the end, when trainings stop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_options(parser)
    arguments = parser.parse_args()
    make_importable()
    from compress_report import write_report

    if arguments.draw:
        write_report(arguments.draw)
        return
    if arguments.quick:
        arguments.budgets, arguments.rates, arguments.distill = [50.0], [0.004], [0.5]
        arguments.epochs, arguments.batch_size = min(arguments.epochs, 1.0), 16
        arguments.out = arguments.out.with_name(f"{arguments.out.stem}-quick.json")
    elif not (arguments.network and arguments.weights and arguments.data):
        parser.error("give --network, --weights and --data, or --quick")
    arguments.out = arguments.out.resolve()
    run(arguments)
    print(", ".join(str(path) for path in write_report(arguments.out)))


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--network", help="name as of lctprune train, such as package.module:function")
    add("--weights", type=Path, help="file of its trained weights")
    add("--data", type=Path, help="folder of images: train/<class>/ and test/<class>/")
    add("--mean", type=_numbers, help="of each channel, as of lctprune train")
    add("--std", type=_numbers)
    add("--published", nargs="*", default=[], metavar="NAME=FILE", help="other trained networks")
    add("--images", type=int, default=0, help="training images, balanced by class; 0: all")
    add("--eval-images", type=int, default=0, help="validation and test images at most, each; 0: all")
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    add("--budgets", nargs="+", type=float, default=[75.0, 50.0, 35.0, 25.0], help="percentages of the FLOPs")
    add("--seeds", nargs="+", type=int, default=[0])
    add("--epochs", type=float, default=10.0, help="compute of each way, in epochs of the network's training")
    add("--criteria", nargs="+", choices=CRITERIA, default=list(CRITERIA), help="of torch-pruning")
    add("--rates", nargs="+", type=float, default=list(RATES), help="of torch-pruning and plain head")
    add("--compress-rates", nargs="+", type=float, default=[None], help="of compress; by default its own")
    add("--distill", nargs="+", type=float, default=[0.0, 0.5], help="of torch-pruning and scratch")
    add("--views", nargs="+", type=int, default=[0], help="of torch-pruning: passes after which they repeat, 0: never")
    add("--batch-size", type=int, default=128)
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    add("--processes", type=int, default=1, help="side by side on the device, one thread each")
    add("--minutes", type=float, help="for all; what is not reached by then is recorded as such")
    add("--device", default="cuda")
    add("--out", type=Path, default=Path("runs/compress.json"), help="what is there is kept")
    add("--work", type=Path, help="folder of the run directories; by default beside --out")
    add("--draw", type=Path, metavar="JSON", help="train nothing, show what it holds")
    add("--quick", action="store_true", help="toy size, to see that the script works")


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def run(arguments: argparse.Namespace) -> None:
    """Take all measurements that are not there yet."""
    from compress_setting import prepared
    from compress_training import pace
    from compress_ways import measure
    from gpu_report import Measurement, Report

    end = time.time() + 60 * (arguments.minutes or 1e6)
    report = Report(arguments.out, device=arguments.device, quick=arguments.quick)
    if arguments.out.exists() and (known := json.loads(arguments.out.read_text()).get("setting")):
        report.document["setting"] = known
    start = time.time()
    setting, samples = prepared(arguments)
    decoding = {"images": samples["all"], "decoding_s": round(time.time() - start, 1)}
    print(f"data: {decoding}", flush=True)
    todo = [each for each in tasks(arguments) if each.name not in report.done(f"{each.budget:g}%")]
    if not todo:
        return
    processes = min(arguments.processes, len(todo))
    with Pool(processes) as pool:
        compute, paces = _recorded_compute(report, arguments), {}
        if compute is None and all(task.way == "published" for task in todo):
            compute = float(arguments.epochs)
        elif compute is None:
            found = [each.result() for each in [pool.submit(pace, setting, number) for number in range(processes)]]
            paces = {name: round(max(each[name] for each in found), 4) for name in found[0]}
            compute = affordable(arguments, todo, paces, samples["train"] // arguments.batch_size, end)
        report.document.setdefault("setting", _described(arguments, samples, compute) | decoding | {"pace": paces})
        print(f"setting: {report.document['setting']}", flush=True)
        stop = end - (LAST_S if arguments.minutes else 0)
        futures = [pool.submit(measure, setting, each._replace(compute=compute), stop) for each in todo]
        named = dict(zip(futures, todo, strict=True))
        for future in as_completed(named):
            task = named[future]
            report.measure(f"{task.budget:g}%", Measurement(task.name, future.result, is_waiting=True), end)


def affordable(
    arguments: argparse.Namespace, todo: Sequence[Task], paces: dict[str, float], steps: int, end: float
) -> float:
    """Return the compute of every way, in epochs: what fits into the time that is left, and `--epochs` at most."""
    if not arguments.minutes:
        return float(arguments.epochs)
    left = USABLE * (end - time.time())
    fixed = [FIXED_S[task.way] for task in todo]
    each = [task.seconds(paces, steps) for task in todo]
    alone = min((left - own) / seconds for own, seconds in zip(fixed, each, strict=True) if seconds)
    together = (left * min(arguments.processes, len(todo)) - sum(fixed)) / sum(each)
    return float(max(0.1, min(arguments.epochs, int(10 * min(alone, together)) / 10)))


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield all measurements, those that take longest first."""
    from compress_setting import COMPRESS, PLAIN_HEAD, PRUNED, PUBLISHED, SCRATCH, Task

    for seed, budget in itertools.product(arguments.seeds, arguments.budgets):
        if COMPRESS in arguments.ways:
            yield from (Task(COMPRESS, budget, seed, lr=lr) for lr in arguments.compress_rates)
    for seed, budget in itertools.product(arguments.seeds, arguments.budgets):
        one = Task(PRUNED, budget, seed)
        variants = itertools.product(sorted(arguments.distill), arguments.criteria, arguments.rates)
        if PRUNED in arguments.ways:
            pruned = [one._replace(distill=weight, criterion=name, lr=lr) for weight, name, lr in variants]
            yield from (
                each._replace(views=views) for each in pruned for views in (arguments.views if each.distill else [0])
            )
        if SCRATCH in arguments.ways:
            new = one._replace(way=SCRATCH, criterion=arguments.criteria[0], lr=NEW_RATE)
            yield from (new._replace(distill=weight) for weight in sorted(arguments.distill))
        if PLAIN_HEAD in arguments.ways:
            yield from (one._replace(way=PLAIN_HEAD, lr=lr) for lr in arguments.rates)
    if PUBLISHED in arguments.ways:
        for name, path in [(None, None), *(each.split("=", 1) for each in arguments.published)]:
            yield Task(PUBLISHED, 100.0, 0, source=name and (name, Path(path).resolve()))


def _recorded_compute(report: Report, arguments: argparse.Namespace) -> float | None:
    """Return the compute of the measurements that are there, or `--epochs` if there is no limit of time."""
    if "setting" in report.document:
        return float(report.document["setting"]["compute"])
    return None if arguments.minutes else float(arguments.epochs)


def _described(arguments: argparse.Namespace, samples: dict[str, int], compute: float) -> dict[str, Any]:
    """Return what the table says of all measurements."""
    return {
        "network": arguments.network or "quick",
        "data": arguments.data.name if arguments.data else "made up",
        "train": samples["train"],
        "val": samples["val"],
        "test": samples["test"],
        "compute": compute,
        "batch_size": arguments.batch_size,
        "precision": arguments.precision,
        "processes": arguments.processes,
        "cores": os.cpu_count(),
        "command": " ".join(sys.argv),
    }


if __name__ == "__main__":
    main()
