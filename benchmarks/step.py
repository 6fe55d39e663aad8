"""Measure what one training step costs: local critics against backpropagation, on the same network, in one run.

    python benchmarks/step.py                  # ResNet-18 at 32x32, 4 groups: some minutes
    python benchmarks/step.py --model resnet34 --groups 16 --only-times
    python benchmarks/step.py --quick          # a small network, to see that the script works

Prints, for `tail` and `pooled` critics, beside backpropagation:
- the time of a step, optimisers included (steps in turns, medians), and the ratio of FLOPs, at three widths: with one
  thread CPU time, which other programs disturb less, with several wall-clock time;
- the peak bytes of tensors that autograd saves in a step;
- the peak bytes that a step allocates, of local critics, joint training and backpropagation, at three widths, with and
  without --recompute, and the time of a step with it, beside the same step without;
- the growth of peak RSS over five steps, weights and optimisers included, each in a process of its own;
- the data loader's share of a step; and what torch.compile does to a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from common import STEP, build, group_flops, random_batch, whole_stage
from memory_probe import peak_allocated_bytes, peak_rss_bytes, peak_saved_bytes, rss_bytes
from torch import Tensor

import lctprune as lct
from lctprune.models.images import least_resnet_width
from lctprune.training.compilation import compilation
from lctprune.utils.environment import machine

MEMORY_BATCH = 256
WIDTHS, RECOMPUTED_BATCH = (8, 16, 64), 32
KINDS: dict[str, dict[str, Any]] = {
    "backprop": {"groups": 1},
    "tail": {"critic": "tail"},
    "pooled": {"critic": "pooled"},
}
CONFIG = lct.TrainConfig(method="local-critic").resolved()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("resnet18", "resnet34"), default="resnet18")
    parser.add_argument("--groups", type=int, default=4, help="of the networks with critics")
    parser.add_argument("--batch-size", type=int, default=128, help="for times")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: as many as it takes by itself")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="channels of the first stage")
    parser.add_argument("--only-times", action="store_true", help="leave out memory and the loader")
    parser.add_argument("--compile", action="store_true", help="time compiled steps too: a minute or two more")
    parser.add_argument("--quick", action="store_true", help="a narrow network, small images and batches, few repeats")
    arguments = parser.parse_args()
    size, memory_batch, widths = 32, MEMORY_BATCH, arguments.widths
    if arguments.quick:
        size, memory_batch, widths = 16, 8, (least_resnet_width(16),)
        arguments.batch_size, arguments.repeats = 8, 3
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    base = lct.NetworkConfig(model=arguments.model, groups=arguments.groups, image_size=size)
    print(f"{base.model} at {size}x{size}, {base.groups} groups, {CONFIG.precision}, {machine()}, seed 0")
    for width in widths:
        print_times(recipes_of(base, width), width, arguments.batch_size, arguments.repeats)
    if arguments.only_times:
        return
    recipes = recipes_of(base, widths[-1])
    print_saved_bytes(recipes, memory_batch)
    for width in widths:
        print_recomputed(recipes_of(base, width), width, min(memory_batch, RECOMPUTED_BATCH), min(arguments.repeats, 5))
    print_peak_rss(recipes, memory_batch)
    print_loader_share(recipes["tail"], arguments.batch_size, arguments.repeats)
    if arguments.compile:
        print_compiled(recipes["tail"], arguments.batch_size, arguments.repeats)


def recipes_of(base: lct.NetworkConfig, width: int) -> dict[str, lct.NetworkConfig]:
    """Return the settings of the network without critics, and with each kind."""
    return {name: dataclasses.replace(base, model_args={"width": width}, **changes) for name, changes in KINDS.items()}


def print_times(recipes: dict[str, lct.NetworkConfig], width: int, batch_size: int, repeats: int) -> None:
    """Take steps of all networks in turns."""
    networks = {name: build(recipe) for name, recipe in recipes.items()}
    batch = random_batch(recipes["backprop"], batch_size)
    seconds = in_turns({name: make_step(network, batch) for name, network in networks.items()}, repeats)
    costs = {name: group_flops(network, batch[0]) for name, network in networks.items()}
    plain = sum(group for group, _ in costs["backprop"])
    print(f"\ntime per step, width {width}, batch {batch_size}, {repeats} steps each in turns (medians)")
    for name, groups in costs.items():
        flops = plain + sum(critic for _, critic in groups)
        ratio = statistics.median(one / other for one, other in zip(seconds[name], seconds["backprop"], strict=True))
        print(
            f"  {name:8}  {statistics.median(seconds[name]):.3f} s  {ratio:.3f} x backprop  "
            f"FLOPs {flops / plain:.3f} x  ->  time / FLOPs {ratio * plain / flops:.3f}"
        )


def print_saved_bytes(recipes: dict[str, lct.NetworkConfig], batch_size: int) -> None:
    """Compare the peak bytes that autograd holds for the backward pass."""
    print(f"\npeak bytes of saved tensors in a step, batch {batch_size}")
    plain = 0
    for name, recipe in recipes.items():
        network = build(recipe)
        peak = peak_saved_bytes(make_step(network, random_batch(recipe, batch_size)), network)
        plain = plain or peak
        print(f"  {name:8}  {peak / 2**20:7.1f} MiB  {peak / plain:.3f} x backprop")


def print_recomputed(recipes: dict[str, lct.NetworkConfig], width: int, batch_size: int, repeats: int) -> None:
    """Compare methods and settings of --recompute: bytes beside backpropagation, seconds beside the method without."""
    print(f"\npeak bytes allocated in a step, width {width}, batch {batch_size}; time beside the same without")
    plain = 0
    for method in ("backprop", "joint", "local-critic"):
        recipe = recipes["backprop" if method == "backprop" else "tail"]
        batch = random_batch(recipe, batch_size)
        steps = {
            recompute: make_step(build(recipe), batch, method=method, recompute=recompute)
            for recompute in ("off", "auto", "on")
        }
        seconds = in_turns(steps, repeats)
        for recompute, step in steps.items():
            peak = peak_allocated_bytes(step)
            plain = plain or peak
            pairs = zip(seconds[recompute], seconds["off"], strict=True)
            slower = statistics.median(one / other for one, other in pairs)
            print(
                f"  {method:12}  --recompute {recompute:4}  {peak / 2**20:7.1f} MiB  {peak / plain:.3f} x backprop  "
                f"time {slower:.3f} x"
            )


def print_peak_rss(recipes: dict[str, lct.NetworkConfig], batch_size: int) -> None:
    """Compare the growth of peak RSS over some steps, in fresh processes."""
    print(f"\ngrowth of peak RSS over 5 steps, batch {batch_size}: weights, optimisers, activations, buffers")
    plain = 0.0
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name, recipe in recipes.items():
            growth = pool.apply(rss_growth, (recipe, batch_size))
            plain = plain or growth
            print(f"  {name:8}  {growth / 2**20:7.1f} MiB  {growth / plain:.3f} x backprop")


def print_loader_share(recipe: lct.NetworkConfig, batch_size: int, repeats: int) -> None:
    """Compare the time to make a batch of shifted, mirrored, normalised images with the time of a step."""
    images = torch.randint(256, (10_000, recipe.image_size, recipe.image_size, 3), dtype=torch.uint8)
    targets = torch.randint(10, (len(images),))
    normalization = lct.Normalization((0.5,) * 3, (0.25,) * 3)
    split = lct.TensorSplit(images, targets, normalization, lct.Augmentation(crop=2, flip=True))
    batches = itertools.chain.from_iterable(split.shuffled(batch_size, seed=epoch) for epoch in itertools.count())
    step = make_step(build(recipe), random_batch(recipe, batch_size))
    seconds = in_turns({"loader": lambda: next(batches), "step": step}, repeats)
    loader, whole = statistics.median(seconds["loader"]), statistics.median(seconds["step"])
    print(f"\nloader: {1e3 * loader:.1f} ms a batch of {batch_size}, {loader / whole:.2%} of a step with tail critics")


def print_compiled(recipe: lct.NetworkConfig, batch_size: int, repeats: int) -> None:
    """Take eager and compiled steps of one network in turns."""
    batch = random_batch(recipe, batch_size)
    network = build(recipe)
    steps = {"eager": make_step(network, batch), "compiled": make_step(network, batch, compile=True)}
    with compilation(dataclasses.replace(CONFIG, compile=True)):
        start = time.perf_counter()
        steps["compiled"]()
        warmup = time.perf_counter() - start
        seconds = in_turns(steps, repeats)
    ratio = statistics.median(one / other for one, other in zip(seconds["compiled"], seconds["eager"], strict=True))
    print(f"\ntorch.compile: {ratio:.3f} x the time of an eager step, after {warmup:.0f} s of compilation")


def make_step(network: lct.LocalCriticNetwork, batch: tuple[Tensor, Tensor], **settings: Any) -> Callable[[], None]:
    """Make a function that takes a training step as lctprune.train does, with other settings than by default."""
    config = dataclasses.replace(CONFIG, **settings)
    stage = whole_stage(network, config)

    def step() -> None:
        with config.autocast():
            stage.step(*batch, STEP)

    return step


def in_turns(steps: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 2) -> dict[str, list[float]]:
    """Measure the seconds of each call, the callables taken in turns: with one thread of CPU, else of a clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(warmup + repeats):
        for name, step in steps.items():
            start = clock()
            step()
            if repeat >= warmup:
                seconds[name].append(clock() - start)
    return seconds


def rss_growth(recipe: lct.NetworkConfig, batch_size: int) -> int:
    """Measure how far this process's peak RSS grows above its RSS before the network is made, in bytes."""
    before = rss_bytes()
    step = make_step(build(recipe), random_batch(recipe, batch_size))
    for _ in range(5):
        step()
    return peak_rss_bytes() - before


if __name__ == "__main__":
    main()
