"""Record when, how and on what machine something was made."""

from __future__ import annotations

import datetime
import math
import os
import platform
import sys
from importlib.metadata import version
from typing import Any

import torch

from lctprune import __version__


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


def memory_bytes() -> float:
    """Return the size of this machine's memory; infinity where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # AttributeError: Windows
        return math.inf
