"""When, how and on what something was made: what its figures depend on."""

from __future__ import annotations

import datetime
import platform
import sys
from importlib.metadata import version
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """When, how and on what: the part of config.json that is not a setting."""
    return {
        "created": datetime.datetime.now().astimezone().isoformat(),
        "command": sys.argv,
        "versions": {name: version(name) for name in ("lctprune", "torch", "torchvision")}
        | {"python": platform.python_version()},
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """What figures of speed depend on."""
    capabilities = torch.cpu.get_capabilities()
    return {
        "platform": platform.platform(),
        "cpu": capabilities.get("cpu_name", platform.processor()),
        "cores": capabilities.get("num_logical_cores"),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
