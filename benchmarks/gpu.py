"""Measure training on a CUDA device, in parts that can be run alone, interrupted and continued.

    python benchmarks/gpu.py --data DIR                                # everything, one part after the other
    python benchmarks/gpu.py --parts step latency --out gpu.json       # these alone
    python benchmarks/gpu.py --device cpu --quick                      # at toy size, to see that the script works

tests       the tests that need the device (pytest -m gpu)
precompile  compiled steps into PyTorch's cache, many processes at once, so that step finds them there
step        time and peak memory of a training step, as ratios to backpropagation, in turns
pace        images per second of the loader and of one training at a time, on made-up images of CIFAR-10's size
latency     time per call of every exit
cifar       accuracy of every exit with the defaults, beside joint training and backpropagation
ablation    objectives at low resolution of data and epochs, many seeds side by side (benchmarks/ablation.py)

Every measurement is written to the JSON file as soon as it is done, and not repeated when the script is run again; one
that fails is recorded with its traceback, one that is not reached in --minutes (for each part) as such. Beside the
JSON stands a table, in Markdown. Parts may run side by side, with an --out each, except step, pace and latency, which
are timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("tests", "precompile", "step", "pace", "latency", "cifar", "ablation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--out", type=Path, default=Path("runs/gpu.json"), help="what is there is kept")
    add("--device", default="cuda")
    add("--data", type=Path, help="CIFAR-10 as a folder of images: train/<class>/ and test/<class>/")
    add("--minutes", type=float, default=8.0, help="for each part; what is not reached by then is recorded as such")
    add("--seeds", type=int, default=1, help="of cifar; ablation has 5")
    add("--epochs", type=int, default=30, help="of cifar at most: fewer where they would not fit into --minutes")
    add("--processes", type=int, default=6, help="trainings side by side on the device, one thread each")
    add("--quick", action="store_true", help="tiny, to see that the script works")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.quick and {"cifar", "ablation"} & set(arguments.parts):
        parser.error("cifar and ablation need --data DIR")
    arguments.out, arguments.data = arguments.out.resolve(), arguments.data and arguments.data.resolve()
    make_importable()
    import torch
    from gpu_parts import FUNCTIONS
    from gpu_report import Report, Scale

    if arguments.quick:
        torch.set_num_threads(1)
    report = Report(arguments.out, device=arguments.device, quick=arguments.quick)
    for part in dict.fromkeys(arguments.parts):
        print(f"{part}:", flush=True)
        end = time.monotonic() + 60 * arguments.minutes
        try:
            for measurement in FUNCTIONS[part](Scale(arguments, end, report.done(part))):
                report.measure(part, measurement, end)
        except Exception:
            report.failed(part, "the part")
        report.write_table()
    print(f"{arguments.out}, {report.write_table()}")


def make_importable() -> None:
    """Let this process and those it starts find lctprune in this clone, where it is not installed."""
    if importlib.util.find_spec("lctprune") is None:
        sys.path.append(str(ROOT))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))


if __name__ == "__main__":
    main()
