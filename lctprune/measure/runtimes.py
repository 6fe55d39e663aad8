"""Measure latency in the runtime that a network will be deployed in."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.config.runtime import AUTO_RUNTIME, Runtime, parse_runtime
from lctprune.errors import ConfigError, RuntimeNote
from lctprune.exporting.compiled import CompiledNetwork
from lctprune.exporting.formats import Format, is_installed, require_extra
from lctprune.exporting.layouts import in_fastest_layout
from lctprune.exporting.reducing import ReducedNetwork
from lctprune.exporting.writing import converted_and_opened
from lctprune.measure.latency import Latency, measure_latency
from lctprune.utils.steps import stepping
from lctprune.utils.wording import counted

FORMATS: dict[str, Format] = {  # of each runtime
    "torchscript": "torchscript",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "inductor": "aoti",
}
COMPILED = "inductor"  # takes tens of seconds per network, so that "auto" does without it
ON_CUDA = ("torchscript",)  # runtimes that are measured there


class Timed(NamedTuple):
    """Latencies of networks in one runtime.

    Attributes:
        runtime: the runtime.
        latencies: latency of each network.
    """

    runtime: str
    latencies: list[Latency]


def time_networks(networks: Sequence[nn.Module], example: Tensor, runtime: Runtime, *, repeats: int) -> Timed:
    """Measure the latencies of networks in a runtime, in turns; "auto" takes the runtime that is fastest here.

    The fastest is the one with the lowest geometric mean of the networks' medians, all measured in one pass.

    Args:
        networks: networks on one device.
        example: input of every call, [batch, ...].
        runtime: torchscript, onnxruntime, openvino, inductor, or auto, which measures those that are installed, but for
            inductor.
        repeats: number of timed calls per network.

    Raises:
        ConfigError: the runtime is unknown, not installed, or does not run on the networks' device.
        ExportError: a network cannot be converted for it.

    Warns:
        RuntimeNote: which runtime is fastest, for "auto" with several.
    """
    runtimes = runtimes_for(runtime, is_cuda=example.is_cuda)
    return fastest(dict.fromkeys(runtimes, networks), example, repeats=repeats)


def fastest(forms: Mapping[str, Sequence[nn.Module]], example: Tensor, *, repeats: int) -> Timed:
    """Measure networks in several runtimes, in one pass; take the runtime that is fastest, as `time_networks` says.

    Args:
        forms: by the runtime, the networks in the form that it runs: as many for each.
        example: input of every call, [batch, ...].
        repeats: number of timed calls per network.

    Raises:
        ExportError: a network cannot be converted.

    Warns:
        RuntimeNote: which runtime is fastest, of several.
    """
    runtimes, networks = [*forms], [*zip(*forms.values(), strict=True)]  # each network in the form of each runtime
    count = len(networks)
    verb = "Compiling" if COMPILED in runtimes else "Preparing"
    what = f"{verb} networks for {' and '.join(runtimes)}"
    prepared = [_in_runtimes(each, example, runtimes) for each in stepping(networks, lambda _: what, count=count)]
    callables = [each for of_runtime in zip(*prepared, strict=True) for each in of_runtime]
    measured = measure_latency(callables, example, repeats=repeats)
    timed = [Timed(each, measured[index * count : (index + 1) * count]) for index, each in enumerate(forms)]
    means = {each.runtime: _geometric_mean(each.latencies) for each in timed}
    best = min(timed, key=lambda each: means[each.runtime])
    if others := {name: means[best.runtime] / mean for name, mean in means.items() if name != best.runtime}:
        ratios = ", ".join(f"{ratio:.2f} of the time of {name}" for name, ratio in others.items())
        warnings.warn(
            f"{best.runtime} is the fastest runtime here: {ratios} (geometric mean of {counted(count, 'network')}, "
            f"batch {len(example)}, {counted(torch.get_num_threads(), 'thread')})",
            RuntimeNote,
            stacklevel=3,
        )
    return best


def runtimes_for(runtime: str, *, is_cuda: bool = False) -> list[str]:
    """List the runtimes to measure: the one that is named, or for "auto" all that are installed, but for inductor.

    Raises:
        ConfigError: the runtime is unknown, not installed (inductor: no C++ compiler), or does not run on CUDA.
    """
    named = parse_runtime(runtime)
    if named == AUTO_RUNTIME:
        quick = [each for each in FORMATS if each != COMPILED and is_installed(FORMATS[each])]
        return [each for each in quick if each in ON_CUDA or not is_cuda]
    if is_cuda and named not in ON_CUDA:
        raise ConfigError(f"runtime {named} is measured on the CPU; move the network there, or take torchscript")
    require_extra(FORMATS[named])
    return [named]


def runtime_of(format: Format) -> Runtime:
    """Return the runtime that files of a format are measured in, the inverse of `FORMATS`; else torchscript."""
    return parse_runtime(next((each for each, its_format in FORMATS.items() if its_format == format), "torchscript"))


def deployed(network: nn.Module, example: Tensor, runtime: str) -> Callable[[Tensor], object]:
    """Return a network in the form in which a runtime runs it.

    Args:
        network: traceable module, or one that was reduced or compiled for this runtime.
        example: input, [batch, ...].
        runtime: torchscript, onnxruntime, openvino or inductor.

    Raises:
        ExportError: it cannot be converted.
    """
    if isinstance(network, ReducedNetwork):
        return network.run
    if isinstance(network, CompiledNetwork):
        return network.package[1]
    if runtime == "torchscript":
        return in_fastest_layout(network, example, example).scripted
    ((_, runner),) = converted_and_opened(network, example, [FORMATS[runtime]])
    return runner


def _in_runtimes(
    forms: Sequence[nn.Module], example: Tensor, runtimes: Sequence[str]
) -> list[Callable[[Tensor], object]]:
    """Return a network in the form in which each of several runtimes runs it."""
    others = [each for each in runtimes if each != "torchscript"]
    if any(each is not forms[0] for each in forms) or isinstance(forms[0], ReducedNetwork) or len(others) < 2:
        return [deployed(form, example, each) for form, each in zip(forms, runtimes, strict=True)]
    opened = [runner for _, runner in converted_and_opened(forms[0], example, [FORMATS[each] for each in others])]
    found = dict(zip(others, opened, strict=True))
    return [found[each] if each in found else deployed(forms[0], example, each) for each in runtimes]


def _geometric_mean(latencies: Sequence[Latency]) -> float:
    return math.exp(statistics.fmean(math.log(each.median_ms) for each in latencies))
