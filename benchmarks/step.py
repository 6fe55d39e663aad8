"""What one training step costs: local critics against backpropagation, on the same network, in one run.

    python benchmarks/step.py                  # ResNet-18 at 32x32, 4 groups: some minutes
    python benchmarks/step.py --quick          # a small network, to see that the script works

Prints, for `tail` and `pooled` critics, beside backpropagation:
- the time of a step, optimisers included (steps in turns, medians), and the ratio of FLOPs;
- the peak bytes of tensors that autograd saves in a step;
- the growth of peak RSS over five steps, weights and optimisers included, each in a process of its own;
- the data loader's share of a step; and what torch.compile does to a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import lctprune as lct
from lctprune.training.compilation import compilation
from lctprune.training.distributed.pipeline import Pipeline
from lctprune.training.stage import Stage
from lctprune.training.worker import StepSettings
from lctprune.utils.environment import machine

KINDS = {"backprop": {"groups": 1}, "tail": {"critic": "tail"}, "pooled": {"critic": "pooled"}}
CONFIG = lct.TrainConfig().resolved()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=128, help="for times")
    parser.add_argument("--memory-batch", type=int, default=256, help="for memory")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="time compiled steps too: a minute or two more")
    parser.add_argument("--quick", action="store_true", help="small images and batches, few repeats")
    arguments = parser.parse_args()
    size = 32
    if arguments.quick:
        size, arguments.batch_size, arguments.memory_batch, arguments.repeats = 16, 32, 32, 3
    recipes = {
        name: lct.NetworkConfig(model=arguments.model, image_size=size, **changes) for name, changes in KINDS.items()
    }
    print(f"{arguments.model} at {size}x{size}, {CONFIG.precision}, {machine()}, seed 0")
    print_times(recipes, arguments.batch_size, arguments.repeats)
    print_saved_bytes(recipes, arguments.memory_batch)
    print_peak_rss(recipes, arguments.memory_batch)
    print_loader_share(recipes["tail"], arguments.batch_size, arguments.repeats)
    if arguments.compile:
        print_compiled(recipes["tail"], arguments.batch_size, arguments.repeats)


def print_times(recipes: dict[str, lct.NetworkConfig], batch_size: int, repeats: int) -> None:
    """Steps of all networks in turns."""
    networks = {name: build(recipe) for name, recipe in recipes.items()}
    batch = random_batch(recipes["backprop"], batch_size)
    seconds = in_turns({name: make_step(network, batch) for name, network in networks.items()}, repeats)
    plain = lct.count_flops(networks["backprop"], batch[0])
    print(f"\ntime per step, batch {batch_size}, {repeats} steps each in turns (medians)")
    for name, network in networks.items():
        flops = plain + sum(critic_flops(network, batch[0]))
        ratio = statistics.median(one / other for one, other in zip(seconds[name], seconds["backprop"], strict=True))
        print(
            f"  {name:8}  {statistics.median(seconds[name]):.3f} s  {ratio:.3f} x backprop  "
            f"FLOPs {flops / plain:.3f} x  ->  time / FLOPs {ratio * plain / flops:.3f}"
        )


def print_saved_bytes(recipes: dict[str, lct.NetworkConfig], batch_size: int) -> None:
    """Peak bytes that autograd holds for the backward pass, each storage once, parameters left out."""
    print(f"\npeak bytes of saved tensors in a step, batch {batch_size}")
    plain = 0
    for name, recipe in recipes.items():
        network = build(recipe)
        peak = peak_saved_bytes(make_step(network, random_batch(recipe, batch_size)), network)
        plain = plain or peak
        print(f"  {name:8}  {peak / 2**20:7.1f} MiB  {peak / plain:.3f} x backprop")


def print_peak_rss(recipes: dict[str, lct.NetworkConfig], batch_size: int) -> None:
    """Growth of peak RSS over some steps, in fresh processes."""
    print(f"\ngrowth of peak RSS over 5 steps, batch {batch_size}: weights, optimisers, activations, buffers")
    plain = 0.0
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name, recipe in recipes.items():
            growth = pool.apply(rss_growth, (recipe, batch_size))
            plain = plain or growth
            print(f"  {name:8}  {growth / 2**20:7.1f} MiB  {growth / plain:.3f} x backprop")


def print_loader_share(recipe: lct.NetworkConfig, batch_size: int, repeats: int) -> None:
    """Time to make a batch of shifted, mirrored, normalised images against the time of a step."""
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
    """Eager and compiled steps of one network in turns."""
    batch = random_batch(recipe, batch_size)
    network = build(recipe)
    steps = {"eager": make_step(network, batch), "compiled": make_step(network, batch, compile=True)}
    with compilation(lct.TrainConfig(compile=True)):
        start = time.perf_counter()
        steps["compiled"]()
        warmup = time.perf_counter() - start
        seconds = in_turns(steps, repeats)
    ratio = statistics.median(one / other for one, other in zip(seconds["compiled"], seconds["eager"], strict=True))
    print(f"\ntorch.compile: {ratio:.3f} x the time of an eager step, after {warmup:.0f} s of compilation")


def build(recipe: lct.NetworkConfig) -> lct.LocalCriticNetwork:
    torch.manual_seed(0)
    return lct.build_network(recipe).to(memory_format=torch.channels_last).train()


def random_batch(recipe: lct.NetworkConfig, batch_size: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(batch_size, recipe.in_channels, recipe.image_size, recipe.image_size)
    return images.to(memory_format=torch.channels_last), torch.randint(recipe.num_outputs, (batch_size,))


def make_step(
    network: lct.LocalCriticNetwork, batch: tuple[Tensor, Tensor], *, compile: bool = False
) -> Callable[[], None]:
    """A training step, as lctprune.train takes it."""
    config = dataclasses.replace(CONFIG, compile=compile)
    stage = whole_stage(network, config)
    settings = StepSettings(position=0, lr=0.01, matching=0.0, update_critics=True, distill=0.25)

    def step() -> None:
        with config.autocast():
            stage.step(*batch, settings)

    return step


def whole_stage(network: lct.LocalCriticNetwork, config: lct.TrainConfig) -> Stage:
    """All groups in this process."""
    count = len(network.groups)
    return Pipeline(None, groups=count).stage(network, [range(count)], config, lct.cross_entropy)


def in_turns(steps: dict[str, Callable[[], object]], repeats: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each call, the callables taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(warmup + repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def critic_flops(network: lct.LocalCriticNetwork, inputs: Tensor) -> list[int]:
    """FLOPs of each critic for one sample."""
    network.eval()
    flops, x = [], inputs[:1]
    for group, critic in zip(network.groups, network.critics, strict=False):
        with torch.no_grad():
            x = group(x)
        flops.append(lct.count_flops(critic, x))
    network.train()
    return flops


class Saved:
    """A tensor that autograd has saved; counts its storage while any such tensor lives."""

    held: dict[int, list[int]]  # address of a storage -> [how often it is saved, its bytes]
    now = peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        storage = tensor.untyped_storage()
        self.address = storage.data_ptr()
        entry = Saved.held.setdefault(self.address, [0, storage.nbytes()])
        entry[0] += 1
        if entry[0] == 1:
            Saved.now += entry[1]
            Saved.peak = max(Saved.peak, Saved.now)

    def __del__(self) -> None:
        entry = Saved.held[self.address]
        entry[0] -= 1
        if entry[0] == 0:
            Saved.now -= entry[1]
            del Saved.held[self.address]


def peak_saved_bytes(step: Callable[[], None], network: lct.LocalCriticNetwork) -> int:
    """The peak over one step."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    Saved.held, Saved.now, Saved.peak = {}, 0, 0

    def pack(tensor: Tensor) -> Saved | Tensor:
        return tensor if tensor.untyped_storage().data_ptr() in parameters else Saved(tensor)

    def unpack(saved: Saved | Tensor) -> Tensor:
        return saved.tensor if isinstance(saved, Saved) else saved

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        step()
    return Saved.peak


def rss_growth(recipe: lct.NetworkConfig, batch_size: int) -> int:
    """Bytes by which this process's peak RSS grows above its RSS before the network is made."""
    before = rss_bytes()
    step = make_step(build(recipe), random_batch(recipe, batch_size))
    for _ in range(5):
        step()
    return peak_rss_bytes() - before


def rss_bytes() -> int:
    """This process's resident set, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_rss_bytes() -> int:
    """This process's resident set at its largest."""
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))  # in KiB; ru_maxrss survives an exec
    return int(peak.split()[1]) * 1024


if __name__ == "__main__":
    main()
