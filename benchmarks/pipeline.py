"""Measure decoupled training on several processes of this machine: equality, speed, memory, and a cluster's prospects.

    python benchmarks/pipeline.py                      everything, for ResNet-18 and a 4-layer LSTM: about 20 minutes
    python benchmarks/pipeline.py --model resnet18 --parts speed scale
    python benchmarks/pipeline.py --quick              a narrow network, 2 processes, to see that the script works

Each process has one thread. All arrangements of a network run in turns in the same processes; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from scaling import Link, scale, step_seconds

import lctprune as lct
from lctprune.config.training import ResolvedTrainConfig
from lctprune.models.images import least_resnet_width
from lctprune.utils.environment import machine

RANKS = Path(__file__).with_name("pipeline_ranks.py")
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet18": {"model": "resnet18", "image_size": 32},
    "lstm": {"model": "lstm", "vocabulary": 5000, "steps": 32, "model_args": {"layers": 4, "width": 256}},
}
CRITICS = {"resnet18": ["pooled", "tail"], "lstm": ["linear", "tail"]}
PARTS = ("equal", "speed", "memory", "scale")
TINY = {"image_size": 16, "model_args": {"width": least_resnet_width(16)}}
CORES = 2  # of this machine, one thread on each
CLUSTERS = {"10 Gbit/s": Link(10e9 / 8, 50e-6), "100 Gbit/s": Link(100e9 / 8, 20e-6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(NETWORKS), action="append", help="by default all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--optimizer", default="auto", help="of every arrangement, as --optimizer of lctprune train")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="timed steps in a repeat, after 2 others")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], help="how many, in turn")
    parser.add_argument("--quick", action="store_true", help="a narrow ResNet-18, 2 processes, one repeat")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.model, arguments.processes, arguments.batch_size = ["resnet18"], [2], 16
        arguments.repeats, arguments.steps = 1, 1
    for model in arguments.model or list(NETWORKS):
        network = NETWORKS[model] | (TINY if arguments.quick else {})
        training = resolved(model, arguments).to_dict()
        settings = {
            "network": network,
            "training": training,
            "critics": CRITICS[model],
            "peers": True,
            "threads": [1] if arguments.quick else [1, 2],
        }
        settings |= {"steps": arguments.steps, "repeats": arguments.repeats, "cores": CORES}
        print(f"\n{model} {network}, {training['optimizer']}, {training['precision']}, {machine()}, seed 0")
        if "equal" in arguments.parts:
            print_equality(settings, arguments)
        speeds: dict[int, Any] = {}
        if {"speed", "scale"} & set(arguments.parts):
            for count in arguments.processes:
                speeds[count] = run("speed", count, {**settings, "peers": count == 2})
                print_speed(count, speeds[count], arguments)
        if "memory" in arguments.parts:
            print_memory(settings, arguments.processes)
        if "scale" in arguments.parts:
            print_scale(speeds, CRITICS[model])


def resolved(model: str, arguments: argparse.Namespace) -> ResolvedTrainConfig:
    config = lct.TrainConfig(method="local-critic", batch_size=arguments.batch_size, optimizer=arguments.optimizer)
    return config.resolved(images=model != "lstm", convolutional=model != "lstm")


def run(job: str, processes: int, settings: dict[str, Any]) -> Any:
    """Run a job in some processes and return what rank 0 found."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "settings.json", Path(folder) / "found.json"
        given.write_text(json.dumps(settings))
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--rdzv-backend", "c10d"]
        launcher = [*launcher, "--rdzv-endpoint", "localhost:0"] if processes > 1 else []
        subprocess.run([sys.executable, *launcher, str(RANKS), job, str(given), str(found)], check=True)
        return json.loads(found.read_text())


def print_equality(settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    steps = 3 if arguments.quick else 50
    print(
        f"\nequal to one process after {steps} steps of 4 samples, bit for bit (weights, statistics, optimiser states)"
    )
    for count in arguments.processes:
        found = run("equal", count, {**settings, "steps": steps, "batch_size": 4})
        failed = [name for name, same in found.items() if not same]
        print(f"  {count} processes: {len(found) - len(failed)} of {len(found)} settings", *failed, flush=True)


def print_speed(count: int, found: dict[str, Any], arguments: argparse.Namespace) -> None:
    print(
        f"\nsteps/s, batch {arguments.batch_size}, {arguments.repeats} repeats of {arguments.steps} steps in turns; "
        f"{count} groups balanced by time"
    )
    seconds = {name: [step_time(each) for each in repeats] for name, repeats in found["runs"].items()}
    for name, times in seconds.items():
        print(f"  {name:52} {1 / statistics.median(times):6.3f}   {waiting(found['runs'][name])}")
    for name in seconds:
        if not name.endswith(f"{count} processes"):
            continue
        one = seconds[name.replace(f"{count} processes", "1 process, 1 thread")]
        speedup, imbalance = ratio(one, seconds[name]), imbalance_of(found["runs"][name])
        ideal = min(count, CORES) / imbalance
        print(
            f"  {name}: {speedup:.3f} x one process, {speedup / ideal:.1%} of {CORES} cores / imbalance {imbalance:.3f}"
        )
        unconnected = seconds.get(name.replace(f"{count} processes", "all of it in each process"))
        if unconnected:
            print(f"    {ratio(unconnected, one):.3f} x the time, where each process trains the whole by itself")
        for other, times in seconds.items():
            if not other.startswith("local critics"):
                print(f"    {ratio(times, seconds[name]):.3f} x {other}")
    sys.stdout.flush()


def step_time(ranks: list[dict[str, float]]) -> float:
    """Return the time of the slowest process: those before it may for some steps run ahead."""
    return max(rank["seconds"] for rank in ranks)


def ratio(slower: list[float], faster: list[float]) -> float:
    """Compare two arrangements by the repeats in which they ran one after the other."""
    return statistics.median(one / other for one, other in zip(slower, faster, strict=True))


def busy(repeats: list[list[dict[str, float]]]) -> list[float]:
    """Return the seconds per step in which each process does not wait: medians."""
    return [
        statistics.median(each[rank]["seconds"] - each[rank]["waited"] for each in repeats)
        for rank in range(len(repeats[0]))
    ]


def imbalance_of(repeats: list[list[dict[str, float]]]) -> float:
    """Return the busiest process's time over the mean."""
    times = busy(repeats)
    return max(times) / statistics.fmean(times)


def waiting(repeats: list[list[dict[str, float]]]) -> str:
    if "waited" not in repeats[0][0]:
        return ""
    step = statistics.median(step_time(each) for each in repeats)
    beyond = 1 - max(busy(repeats)) / step
    shares = ", ".join(f"{1 - time / step:.1%}" for time in busy(repeats))
    return f"idle {shares}; beyond the imbalance {beyond:.1%}"


def print_memory(settings: dict[str, Any], processes: list[int]) -> None:
    print("\nmemory of the largest process, groups balanced by memory (MiB)")
    plain: dict[str, float] = {}
    for count in (1, *processes):
        network = {**settings["network"], "balance": "memory", "critic": settings["critics"][0]}
        notes = run("memory", count, {**settings, "network": network})
        largest = {
            "saved tensors + parameters + optimiser": max(note["saved"] + note["state"] for note in notes),
            "growth of peak RSS": max(note["rss"] for note in notes),
        }
        plain = plain or largest
        for name, size in largest.items():
            what = "backpropagation, 1 process" if count == 1 else f"{count} processes"
            print(f"  {what:27} {name:40} {size / 2**20:8.1f}   {size / plain[name]:.3f} x", flush=True)


def print_scale(speeds: dict[int, dict[str, Any]], critics: list[str]) -> None:
    """Compare the model of scaling.py with what was measured, and print what it says about clusters."""
    print("\npredicted from one process's times of each group, against measured seconds per step")
    for count, found in speeds.items():
        measured_link = Link(found["link"]["bytes_per_s"], found["link"]["latency_s"], found["link"]["bytes_per_s"])
        for critic in critics:
            compute = found["groups"][critic]
            predicted = step_seconds(compute, found["sent"], measured_link, cores=CORES)
            repeats = found["runs"][f"local critics, {critic}, {count} processes"]
            seconds = statistics.median(step_time(each) for each in repeats)
            print(f"  {count} processes, {critic:7} {predicted:.4f}  {seconds:.4f}  {predicted / seconds - 1:+.1%}")
    found = speeds[max(speeds)]
    network_s = statistics.median(step_time(each) for each in found["runs"]["backpropagation, 1 process, 1 thread"])
    cut = statistics.fmean(found["sent"])
    for critic in critics:
        critic_s = found["critics"][critic]
        for faster, what in ((1, "a core as here"), (100, "a device 100 times as fast")):
            print(
                f"\n{critic} critics, {what}: speed-up over backpropagation in one process (efficiency, what bounds it)"
            )
            for name, link in CLUSTERS.items():
                rows = [scale(network_s / faster, critic_s / faster, cut, groups, link) for groups in (8, 32, 128)]
                cells = [
                    f"{row.groups} groups {row.speedup:6.1f} x ({row.efficiency:.0%}, {row.bound})" for row in rows
                ]
                print(f"  {name:10}  " + "   ".join(cells))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
