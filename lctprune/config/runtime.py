"""The runtimes that latency is measured in, and the precisions of candidates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from lctprune.errors import ConfigError

Runtime = Literal["torchscript", "onnxruntime", "openvino", "inductor", "auto"]
Precision = Literal["fp32", "int8", "bf16", "fp16"]  # fp32: as it was trained, whatever its type
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
AUTO_RUNTIME: Runtime = "auto"  # the fastest of those that are installed, but for inductor
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FULL: Precision = "fp32"
REDUCED = PRECISIONS[1:]  # made after training


def parse_runtime(name: str) -> Runtime:
    """Return a runtime by its name.

    Raises:
        ConfigError: there is no such runtime.
    """
    for runtime in RUNTIMES:
        if runtime == name:
            return runtime
    raise ConfigError(f"runtime is {name!r}; it must be one of {', '.join(RUNTIMES)}")


def parse_precisions(names: str | Iterable[str]) -> tuple[Precision, ...]:
    """Return the reduced precisions among those named, each once, in the order of `PRECISIONS`; fp32 is always there.

    Args:
        names: names, of which each may be several with commas: "int8,bf16".

    Raises:
        ConfigError: there is no such precision.
    """
    given = [names] if isinstance(names, str) else names
    single = [name.strip() for each in given for name in each.split(",")]
    for name in single:
        if name not in PRECISIONS:
            raise ConfigError(f"precision is {name!r}; it must be one of {', '.join(PRECISIONS)}, or several of them")
    return tuple(each for each in REDUCED if each in single)
