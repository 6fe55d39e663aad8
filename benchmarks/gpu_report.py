"""The record of `gpu.py`: a JSON file that grows with every measurement, and a table of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lctprune.utils.environment import environment

SEED = 0
NOT_REACHED = "not reached"


class Measurement(NamedTuple):
    """A measurement to take.

    Attributes:
        name: name within its part.
        take: function that takes it.
        is_waiting: whether it only waits for what has begun before, and ends in time by itself.
    """

    name: str
    take: Callable[[], dict[str, Any]]
    is_waiting: bool = False


class Scale:
    """The size of the measurements of one part, and when it must end.

    Args:
        arguments: options of the script.
        end: time at which the part must end, of `time.monotonic`.
        done: names of the measurements that are there already.
    """

    def __init__(self, arguments: argparse.Namespace, end: float, done: set[str]) -> None:
        self.device: str = arguments.device
        self.quick: bool = arguments.quick
        self.folder: Path = arguments.out.with_suffix("")  # for what trainings write
        self.arguments = arguments
        self.end, self.done = end, done

    @property
    def seconds_left(self) -> float:
        """Seconds until the part must end."""
        return self.end - time.monotonic()


class Report:
    """All measurements, by part and name.

    Args:
        path: JSON file; what it holds is kept.
        device: device of the measurements.
        quick: whether they are at toy size.
    """

    def __init__(self, path: Path, *, device: str, quick: bool) -> None:
        self.path = path
        here = {"card": card(device), "device": device, "quick": quick, "seed": SEED}
        self.document: dict[str, Any] = {**here, **environment(), "parts": {}}
        if path.exists():
            found = json.loads(path.read_text())
            other = [f"{name} {found.get(name)!r}" for name, value in here.items() if found.get(name) != value]
            if other:
                raise SystemExit(f"{path} holds measurements with {', '.join(other)}; give another --out")
            self.document["parts"] = found["parts"]

    def done(self, part: str) -> set[str]:
        """Return the names of a part's measurements that need not be taken again."""
        known = self.document["parts"].get(part, {})
        return {name for name, found in known.items() if not {"error", "skipped"} & found.keys()}

    def measure(self, part: str, measurement: Measurement, end: float) -> None:
        """Take a measurement that is not there yet and write it, or why there is none."""
        name = measurement.name
        if name in self.done(part):
            return
        done = self.document["parts"].setdefault(part, {})
        if time.monotonic() > end and not measurement.is_waiting:
            done[name] = {"skipped": NOT_REACHED}
        else:
            start = time.perf_counter()
            try:
                done[name] = measurement.take()
            except Exception:
                self.failed(part, name)
            done[name]["wall_s"] = round(time.perf_counter() - start, 2)
        self.write()
        told = {key: value for key, value in done[name].items() if key != "output"}
        print(f"  {name}: {json.dumps(told)[:600]}", flush=True)

    def failed(self, part: str, name: str) -> None:
        """Record the exception that is being handled."""
        self.document["parts"].setdefault(part, {})[name] = {"error": traceback.format_exc()[-6000:]}
        self.write()
        print(traceback.format_exc(), flush=True)

    def write(self) -> None:
        """Write the JSON file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.document, indent=1) + "\n")
        beside.replace(self.path)

    def write_table(self) -> Path:
        """Write all measurements as Markdown tables beside the JSON file."""
        path = self.path.with_suffix(".md")
        versions = ", ".join(f"{name} {value}" for name, value in self.document["versions"].items())
        lines = [f"{self.document['card']}; {versions}; seed {SEED}", ""]
        for part, measurements in self.document["parts"].items():
            lines += [f"## {part}", "", *table_of(measurements), ""]
        path.write_text("\n".join(lines))
        return path


def card(device: str) -> str:
    """Name the device and its driver."""
    if device != "cuda":
        return device
    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        driver = "unknown"
    return f"{torch.cuda.get_device_name()} (driver, memory: {driver}; CUDA {torch.version.cuda})"


def table_of(measurements: dict[str, dict[str, Any]]) -> list[str]:
    """Make a row per measurement, or per entry of its `rows`."""
    rows: list[dict[str, Any]] = []
    for name, found in measurements.items():
        plain = {key: value for key, value in found.items() if key not in ("rows", "output", "error")}
        if "error" in found:
            plain["error"] = found["error"].strip().splitlines()[-1]
        rows += [{"of": name, **plain, **row} for row in found.get("rows", [{}])]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[str(row.get(column, "")).replace("|", "/").replace("\n", " ") for column in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *cells]]
