"""The runtimes that latency is measured in, and the precisions of candidates."""

from __future__ import annotations

from typing import Literal, get_args

from lctprune.errors import ConfigError

Runtime = Literal["torchscript", "onnxruntime", "openvino", "auto"]
Precision = Literal["fp32", "int8"]  # of candidates: as they were trained, or also in 8-bit integers
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
AUTO_RUNTIME: Runtime = "auto"  # the fastest of those that are installed


def parse_runtime(name: str) -> Runtime:
    """Return a runtime by its name.

    Raises:
        ConfigError: there is no such runtime.
    """
    for runtime in RUNTIMES:
        if runtime == name:
            return runtime
    raise ConfigError(f"runtime is {name!r}; it must be one of {', '.join(RUNTIMES)}")
