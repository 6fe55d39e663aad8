"""Record when, how and on what machine something was made."""

from __future__ import annotations

import datetime
import math
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lctprune import __version__

LOOKS, BETWEEN_S = 9, 0.01  # at what runs: a single look catches programs that are busy for an instant


def environment() -> dict[str, Any]:
    """Return the time, the command, the versions and the machine: the part of config.json that is not a setting."""
    return {
        "created": datetime.datetime.now().astimezone().isoformat(),
        "command": sys.argv,
        # of the package itself, which may run from its source without being installed
        "versions": {"lctprune": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "torchvision")},
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """Describe the machine, as far as speed depends on it."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # from 2.11 on
    return {
        "platform": platform.platform(),
        "cpu": capabilities.get("cpu_name", platform.processor()),
        "cores": capabilities.get("num_logical_cores", os.cpu_count()),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def fewer_threads() -> tuple[int, int] | None:
    """Return how many cores other programs keep busy, and how many threads of PyTorch have a core to themselves.

    To be asked before a training on the CPU. Threads of a step wait for each other, so where they are twice as many as
    free cores, or more, a step takes several times as long as with as many threads as that. Otherwise None, and where
    the system does not say (it is no Linux).
    """
    cores, busy = os.cpu_count() or 1, _others_running()
    free = max(1, cores - busy)
    return (min(busy, cores), free) if 2 * free <= torch.get_num_threads() else None


def _others_running() -> int:
    """Count the tasks of other programs that run or wait for a core."""
    looks = []
    try:
        for _ in range(LOOKS):
            running = Path("/proc/loadavg").read_text().split()[3].partition("/")[0]
            looks.append(int(running) - 1)  # this process
            time.sleep(BETWEEN_S)
    except (OSError, IndexError, ValueError):
        return 0
    return statistics.median_low(looks)


def memory_bytes() -> float:
    """Return the size of this machine's memory; infinity where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # AttributeError: Windows
        return math.inf
