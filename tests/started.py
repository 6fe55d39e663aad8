"""The command line in processes of their own, and what becomes of them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start the command line in a session of its own, as on a terminal, with its temporary files in the same place."""
    command = [sys.executable, "-m", "lctprune", *arguments]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | {"TMPDIR": str(cwd)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(process: int) -> list[int]:
    """Of a process, in the order they were started."""
    text = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True).stdout
    return [int(pid) for pid in text.split()]


def exists(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def wait_for(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def learnt(run: Path) -> list[dict[str, str]]:
    """Read the rows of metrics.csv, without what depends on the clock."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "images_per_s"} for row in csv.DictReader(file)]
