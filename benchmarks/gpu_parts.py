"""The parts of `gpu.py`: a function each, which returns what is to be measured."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ablation
import gpu_latency
import gpu_step
import gpu_training
from common import mean_and_deviation
from gpu_report import Measurement, Scale

ROOT = Path(__file__).parents[1]


def test_part(scale: Scale) -> list[Measurement]:
    """Return the run of the tests that need the device."""

    def run() -> dict[str, Any]:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-v", "-W", "default", "--durations=10"]
        if importlib.util.find_spec("xdist") and not scale.quick:
            command += ["-n", "6"]
        command += ["-p", "no:cacheprovider", *(["-k", "adamw and not precision"] if scale.quick else [])]
        found = run_command(command, scale, {"LCTPRUNE_TEST_DEVICE": scale.device})
        last = (found["output"].strip().splitlines() or [""])[-1]
        counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
        return {**counts, "summary": last, **found}

    return [Measurement("pytest -m gpu", run)]


def ablation_part(scale: Scale) -> list[Measurement]:
    """Return the trainings of `ablation.py`: what is between local critics and joint training, with many seeds."""

    def run() -> dict[str, Any]:
        out = scale.folder / "ablation.csv"
        command = [sys.executable, str(Path(__file__).with_name("ablation.py")), "--device", scale.device]
        command += ["--threads", "1", "--out", str(out)]
        size = ["--data", str(scale.arguments.data), "--seeds", "5", "--processes", str(scale.arguments.processes)]
        size += ["--only", ablation.DEFAULT, "backprop", "joint", "blocks"]
        found = run_command([*command, *(["--quick"] if scale.quick else size)], scale)
        with (out.parent / "quick" / out.name if scale.quick else out).open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {**found, "rows": ablation_rows(rows)}

    return [Measurement("objectives", run)]


def ablation_rows(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Make a row per variant: mean accuracy of every exit, and the difference from the default in points."""
    compared = ablation.differences(rows)
    found = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        columns = zip(*([float(each) for each in row["accuracies"].split()] for row in own), strict=True)
        told = ", ".join(f"{mean:+.2f} ({error:.2f})" for mean, error, _ in compared.get(name, []))
        found.append(
            {
                "variant": name,
                "n": len(own),
                "accuracy": ", ".join(mean_and_deviation(column) for column in columns),
                f"points more than {ablation.DEFAULT} (standard error)": told,
                "train_s": round(statistics.mean(float(row["seconds"]) for row in own)),
            }
        )
    return found


def run_command(command: list[str], scale: Scale, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a command until the part must end; return its exit code, or why it has none, and the end of its output."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that its own processes can be ended with it
    )
    try:
        output, _ = process.communicate(timeout=max(1.0, scale.seconds_left))
        found: dict[str, Any] = {"code": process.returncode}
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        found = {"skipped": "not reached: it was ended, and goes on where it can"}
    return {**found, "output": output[-20000:]}


FUNCTIONS: dict[str, Callable[[Scale], Iterable[Measurement]]] = {
    "tests": test_part,
    "precompile": gpu_step.precompile_part,
    "step": gpu_step.step_part,
    "pace": gpu_training.pace_part,
    "latency": gpu_latency.latency_part,
    "cifar": gpu_training.cifar_part,
    "ablation": ablation_part,
}
