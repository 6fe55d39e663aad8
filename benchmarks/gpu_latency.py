"""Time of a call of every exit, on the device of `gpu.py`."""

from __future__ import annotations

import copy
import functools
from typing import Any

from common import random_batch
from gpu_networks import NETWORKS, QUICK, Network, build
from gpu_report import Measurement, Scale

from lctprune.exporting.torchscript import to_torchscript
from lctprune.measure.latency import measure_latency


def latency_part(scale: Scale) -> list[Measurement]:
    """Return what to measure of calls: every exit as it is deployed, alone and in a batch."""
    networks = QUICK if scale.quick else dict(list(NETWORKS.items())[:2])
    repeats = 3 if scale.quick else 50
    return [
        Measurement(name.partition(",")[0], functools.partial(measure_calls, network, scale.device, repeats))
        for name, network in networks.items()
    ]


def measure_calls(network: Network, device: str, repeats: int) -> dict[str, Any]:
    """Time the calls of every exit, in turns."""
    built = copy.deepcopy(build(network, network.recipe.groups)).to(device).eval()
    inputs = random_batch(network.recipe, network.batch)[0].to(device)
    exits = [to_torchscript(built.subnetwork(exit), inputs[:2]) for exit in range(len(built.groups))]
    rows = []
    for batch in (1, network.batch):
        for exit, found in enumerate(measure_latency(exits, inputs[:batch], repeats=repeats, warmup=10)):
            times = {name: round(value, 4) for name, value in found._asdict().items()}
            rows.append({"samples per call": batch, "exit": exit, **times})
    return {"n": repeats, "precision": "fp32", "rows": rows}
