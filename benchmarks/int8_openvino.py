"""Exits of runs in 8-bit integers for OpenVINO: made by NNCF, and of the graph that ONNX Runtime's library makes.

    python benchmarks/int8_openvino.py RUN [RUN ...] [--repeats 15] [--quick]

Accuracy on the validation and the test samples together, the share of them with the answer of the network in full
precision, CPU time of a call with one thread by that of full precision (all forms in turns, medians of the ratios), and
the size of the files.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from runtimes import BATCHES, ratios_of
from torch import Tensor, nn

import lctprune as lct
from lctprune.errors import NetworkWarning
from lctprune.exporting.openvino_model import openvino_files
from lctprune.exporting.quantizing import CALIBRATION_SAMPLES, OnnxModels, quantized
from lctprune.exporting.writing import Converted, of_onnx_model, runner_of
from lctprune.measure.reduced import calibration_samples

QUICK = lct.NetworkConfig(model="mlp", model_args={"width": 16, "layers": 4}, features=4, groups=2, num_outputs=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="of a classification; the first exit and the main network")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="tiny, to see that the script works")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NetworkWarning)
    if arguments.quick:
        torch.manual_seed(0)
        inputs, targets = torch.randn(64, 4), torch.randint(3, (64,))
        compare("mlp", lct.build_network(QUICK).subnetwork(0).eval(), inputs, [(inputs, targets)], 2)
    for path in arguments.runs:
        run = lct.Run(path)
        network, data = lct.load_network(path), run.load_data()
        for exit in (0, len(network.groups) - 1):
            batches = itertools.chain(data.val.batches(64), data.test.batches(64))
            name = f"{run.config.network.model if run.config.network else path.name}, exit {exit}"
            compare(name, network.subnetwork(exit).eval(), calibration_samples(data.train), batches, arguments.repeats)


def compare(
    name: str, network: nn.Module, samples: Tensor, batches: Iterable[tuple[Tensor, Tensor]], repeats: int
) -> None:
    """Print a line for each form of a network.

    Args:
        name: name of the network.
        network: network in evaluation mode.
        samples: training samples to calibrate on, [n, ...].
        batches: inputs and classes that forms are scored on.
        repeats: rounds of timed calls.
    """
    files = dict(forms_of(network, samples))
    forms = {form: runner_of(file) for form, file in files.items()}
    right, alike, count = dict.fromkeys(forms, 0), dict.fromkeys(forms, 0), 0
    for inputs, targets in batches:
        answers = {form: run(inputs).argmax(1) for form, run in forms.items()}
        for form, answer in answers.items():
            right[form] += int((answer == targets).sum())
            alike[form] += int((answer == answers["full precision"]).sum())
        count += len(targets)
    times = {batch: ratios_of(dict(forms), samples[:batch], repeats) for batch in BATCHES}
    for form, file in files.items():
        size = len(file.content) + len(file.weights or b"")
        took = ", ".join(f"batch {batch} {ratios[form]:.2f}" for batch, (_, ratios) in times.items())
        print(
            f"{name}, {form}: accuracy {right[form] / count:.2%} of {count}, answers alike {alike[form] / count:.2%}, "
            f"{took}, {size / 1e3:.0f} kB",
            flush=True,
        )


def forms_of(network: nn.Module, samples: Tensor) -> Iterator[tuple[str, Converted]]:
    """Yield the name and the files of each form of a network; that in full precision, the first, is compared with."""
    models = OnnxModels(network, samples[:CALIBRATION_SAMPLES])
    full = models.full
    graph, weights = openvino_files(network, bytes(full.content))
    yield "full precision", Converted("openvino", graph, full.length, weights)
    yield "by ONNX Runtime", of_onnx_model(network, models.int8.SerializeToString(), "openvino", full.length)
    yield "by NNCF", quantized(models, "openvino")[0]


if __name__ == "__main__":
    main()
