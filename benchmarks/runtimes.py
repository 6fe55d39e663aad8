"""Time of a call of a network's first exit in each runtime, in full and in reduced precision, by TorchScript's.

    python benchmarks/runtimes.py [--repeats 15] [--only NAME] [--quick] [--inductor]

CPU time of this process with one thread, all forms in turns, the median of the ratios: other programs change it little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from common import random_batch
from torch import Tensor

import lctprune as lct
from lctprune.errors import NetworkWarning
from lctprune.exporting.reducing import reduced
from lctprune.measure.runtimes import deployed

NETWORKS: dict[str, dict[str, Any]] = {
    "ResNet-18, 64x64": {"model": "resnet18", "image_size": 64},
    "MobileNetV3-small, 64x64": {"model": "mobilenet_v3_small", "image_size": 64},
    "LSTM, 64 steps": {"model": "lstm", "vocabulary": 5000, "steps": 64},
}
QUICK: dict[str, dict[str, Any]] = {"LSTM": {"model": "lstm", "model_args": {"width": 8}, "vocabulary": 20, "steps": 4}}
BATCHES = (1, 32)
CALIBRATION = 64  # random inputs, as the time of a call does not depend on the ranges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="tiny, to see that the script works")
    parser.add_argument("--only", choices=NETWORKS, help="one of the networks")
    parser.add_argument(
        "--inductor", action="store_true", help="Inductor too, which is compiled, in full precision only"
    )
    arguments = parser.parse_args()
    networks, repeats = (QUICK, 2) if arguments.quick else (NETWORKS, arguments.repeats)
    networks = {arguments.only: networks[arguments.only]} if arguments.only else networks
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NetworkWarning)
    for name, inputs in networks.items():
        torch.manual_seed(0)
        network = lct.build_network(lct.NetworkConfig(num_outputs=10, groups=4, **inputs)).eval()
        assert network.recipe is not None  # by which it was built
        samples = random_batch(network.recipe, CALIBRATION)[0].contiguous()
        forms = (compiled_forms_of if arguments.inductor else forms_of)(network.subnetwork(0), samples)
        for batch in BATCHES:
            first_ms, ratios = ratios_of(forms, samples[:batch], repeats)
            print(
                f"{name}, batch {batch}: "
                + ", ".join(f"{form} {ratio:.2f}" for form, ratio in ratios.items())
                + f" (TorchScript: {first_ms:.2f} ms)",
                flush=True,
            )


def forms_of(network: torch.nn.Module, samples: Tensor) -> dict[str, Callable[[Tensor], object]]:
    """Return what is timed; TorchScript, the first, is what the others are compared with."""
    forms = {
        "ONNX Runtime int8": (reduced(network, samples, "onnx", "int8"), "onnxruntime"),
        "OpenVINO int8": (reduced(network, samples, "openvino", "int8"), "openvino"),
        "ONNX Runtime bf16": (reduced(network, samples, "onnx", "bf16"), "onnxruntime"),
        "OpenVINO bf16": (reduced(network, samples, "openvino", "bf16"), "openvino"),
        "TorchScript bf16": (reduced(network, samples, "torchscript", "bf16"), "torchscript"),
        "TorchScript fp16": (reduced(network, samples, "torchscript", "fp16"), "torchscript"),
    }
    return {
        "TorchScript": deployed(network, samples[:2], "torchscript"),
        "ONNX Runtime": deployed(network, samples[:2], "onnxruntime"),
        "OpenVINO": deployed(network, samples[:2], "openvino"),
        **{name: deployed(form, samples[:2], runtime) for name, (form, runtime) in forms.items()},
    }


def compiled_forms_of(network: torch.nn.Module, samples: Tensor) -> dict[str, Callable[[Tensor], object]]:
    """Return what is timed with Inductor, whose compilation is timed here."""
    start, before = time.perf_counter(), os.times()
    compiled = deployed(network, samples[:2], "inductor")
    after = os.times()
    took = sum(after[:4]) - sum(before[:4])  # of this process and of the compiler
    print(f"compiled in {time.perf_counter() - start:.0f} s, {took:.0f} s of CPU time", flush=True)
    return {
        "TorchScript": deployed(network, samples[:2], "torchscript"),
        "ONNX Runtime": deployed(network, samples[:2], "onnxruntime"),
        "Inductor": compiled,
    }


def ratios_of(
    forms: dict[str, Callable[[Tensor], object]], inputs: Tensor, repeats: int
) -> tuple[float, dict[str, float]]:
    """Return medians over rounds: the first form's CPU time in milliseconds, and that of each form by the first's."""
    rounds = []
    with torch.inference_mode():
        for form in forms.values():
            cpu_ms(form, inputs)
        for _ in range(repeats):
            rounds.append([cpu_ms(form, inputs) for form in forms.values()])
    ratios = {name: statistics.median(times[index] / times[0] for times in rounds) for index, name in enumerate(forms)}
    return statistics.median(times[0] for times in rounds), ratios


def cpu_ms(form: Callable[[Tensor], object], inputs: Tensor) -> float:
    """Return the CPU time of a call, in milliseconds, after one that warms up the caches."""
    form(inputs)
    start = time.process_time()
    form(inputs)
    return 1e3 * (time.process_time() - start)


if __name__ == "__main__":
    main()
