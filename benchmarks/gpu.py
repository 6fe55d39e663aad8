"""Measure training on a CUDA device, in parts that can be run alone, interrupted and continued.

    python benchmarks/gpu.py --data DIR --out gpu.json         # everything: about 8 minutes on an H100
    python benchmarks/gpu.py --parts step latency              # these alone; --data is for cifar and ablation
    python benchmarks/gpu.py --device cpu --quick              # at toy size, to see that the script works

tests     the tests that need the device (pytest -m gpu)
step      time and peak memory of a training step, as ratios to backpropagation, in turns
latency   time per call of every exit
cifar     accuracy of every exit with the defaults, beside joint training and backpropagation; images per second
ablation  objectives at low resolution of data and epochs, many seeds side by side (benchmarks/ablation.py)

Every measurement is written to the JSON file as soon as it is done, and not repeated when the script is run again; one
that fails is recorded with its traceback, one that is not reached in --minutes (for each part) as such. Beside the
JSON stands a table, in Markdown.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_step
from gpu_report import Report, Scale

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    add("--out", type=Path, default=Path("runs/gpu.json"), help="what is there is kept")
    add("--device", default="cuda")
    add("--data", type=Path, help="CIFAR-10 as a folder of images: train/<class>/ and test/<class>/")
    add("--minutes", type=float, default=8.0, help="for each part; what is not reached by then is recorded as such")
    add("--seeds", type=int, default=1, help="of cifar; ablation has 5")
    add("--epochs", type=int, default=30, help="of cifar")
    add("--processes", type=int, default=6, help="trainings side by side on the device, one thread each")
    add("--quick", action="store_true", help="tiny, to see that the script works")
    arguments = parser.parse_args()
    report = Report(arguments.out, device=arguments.device, quick=arguments.quick)
    for part in dict.fromkeys(arguments.parts):
        print(f"{part}:", flush=True)
        end = time.monotonic() + 60 * arguments.minutes
        scale = Scale(arguments, end)
        try:
            for name, measure in PARTS[part](scale):
                report.measure(part, name, measure, end)
        except Exception:
            report.failed(part, "")
    print(f"{arguments.out}, {report.write_table()}")


def test_part(scale: Scale) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    def run() -> dict[str, Any]:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "-W", "default", "--durations=10"]
        command += ["-p", "no:cacheprovider", "-k", "adamw or device_is_found"] if scale.quick else []
        environment = os.environ | {"LCTPRUNE_TEST_DEVICE": scale.device}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(1.0, scale.seconds_left)
        )
        last = (done.stdout.strip().splitlines() or [""])[-1]
        counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)}
        return {"code": done.returncode, **counts, "summary": last, "output": (done.stdout + done.stderr)[-20000:]}

    return [("pytest -m gpu", run)]


PARTS: dict[str, Callable[[Scale], list[tuple[str, Callable[[], dict[str, Any]]]]]] = {
    "tests": test_part,
    "step": gpu_step.step_part,
    "latency": gpu_step.latency_part,
}


if __name__ == "__main__":
    main()
