"""What the parts of a network cost in a step of training on this machine: time and memory."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lctprune.config.training import TrainConfig
from lctprune.losses import Loss
from lctprune.network import LocalCriticNetwork
from lctprune.optim.optimizers import Optimizers, apply_gradients
from lctprune.update import backward_critic, backward_group, forward_group, run_exit
from lctprune.utils.modules import evaluation_mode, training_for_now

REPEATS = 3
STATE_BYTES = 12  # of a parameter in training, its gradient and its momentum, in single precision
MEMORY_BYTES = 2 * 2**30  # that the activations of a timed batch may take


def as_timed(training: TrainConfig, bytes_per_sample: int) -> TrainConfig:
    """The same with fewer samples in a batch, where their activations would take too much memory."""
    size = max(2, min(training.batch_size, MEMORY_BYTES // max(1, bytes_per_sample)))
    return dataclasses.replace(training, batch_size=size)


def segment_times_ns(segments: Sequence[nn.Module], example: Tensor, config: TrainConfig) -> list[int]:
    """Nanoseconds that each of consecutive segments adds to a step of training, in training mode.

    All segments run forward, then all backward in reverse, as in training: what a segment saves is not in the cache any
    more when its backward pass wants it. The optimiser's step counts too. Leaves states, gradients and the random
    generator as they were.

    Args:
        segments: each takes what the one before gives.
        example: an input of the first, [batch, ...], of which the first sample is used.
        config: resolved: how many copies of it a batch has, the precision and the optimiser.
    """
    with training_for_now(nn.ModuleList(segments)), config.autocast(), torch.enable_grad():
        times = [_one_run(segments, _training_batch(example, config.batch_size)) for _ in range(REPEATS)]
        updates = [_update_time_ns(Optimizers(segment, None, config)) for segment in segments]
    return [min(column) + update for *column, update in zip(*times, updates, strict=True)]


def group_seconds(
    network: LocalCriticNetwork,
    inputs: Tensor,
    targets: Tensor,
    config: TrainConfig,
    *,
    loss: Loss,
    repeats: int = REPEATS,
) -> list[float]:
    """Seconds that each group with its critic takes in a step: the least of `repeats`. Leaves the network as it was.

    Args:
        network: on the device of the batch.
        inputs: of a batch.
        targets: of the batch, [batch, ...].
        config: resolved: the precision and the optimiser.
        loss: per sample.
        repeats: how often a step is taken.
    """
    seconds = [[0.0] * len(network.groups) for _ in range(repeats)]
    updates: list[float] = []
    with training_for_now(network), config.autocast():
        for row in seconds:
            x = inputs
            for index, group in enumerate(network.groups):
                critic = network.critics[index] if index < len(network.critics) else None
                start = time.perf_counter()
                forward = forward_group(group, x, index=index)
                exit = run_exit(forward, critic, targets, loss)
                backward_group(forward, exit.losses, keep_critic_graph=critic is not None)
                if critic is not None:
                    backward_critic(critic, exit, None, torch.zeros_like(exit.losses), matching=0.0)
                row[index] = time.perf_counter() - start
                x = forward.boundary.detach()
        for group, critic in itertools.zip_longest(network.groups, network.critics):
            updates.append(_update_time_ns(Optimizers(group, critic, config)) / 1e9)
    return [min(column) + update for *column, update in zip(*seconds, updates, strict=True)]


def critic_time_ns(critic: nn.Module, shape: tuple[int, ...], config: TrainConfig) -> int:
    """Nanoseconds that a critic adds to a step of training by a resolved config, behind a tensor of `shape` (without
    the batch).
    """
    inputs = _training_batch(torch.zeros(1, *shape), config.batch_size).requires_grad_()
    parameters = [parameter for parameter in critic.parameters() if parameter.requires_grad]
    times = []
    with config.autocast(), torch.enable_grad():
        for _ in range(REPEATS):
            start = time.perf_counter_ns()
            output = critic(inputs).sum()
            torch.autograd.grad(output, [inputs], retain_graph=True)  # the group's way through the critic
            torch.autograd.grad(output, parameters)  # and the critic's own
            times.append(time.perf_counter_ns() - start)
        return min(times) + _update_time_ns(Optimizers(nn.Identity(), critic, config))


def training_bytes(activation_bytes: int, parameters: int, config: TrainConfig) -> int:
    """Bytes that a process holds to train something: activations, and parameters with gradients and momentum.

    Args:
        activation_bytes: saved for the backward pass of one sample, in single precision.
        parameters: how many.
        config: resolved: the batch size and the precision.
    """
    batch = activation_bytes * config.batch_size
    return (batch // 2 if config.precision == "bf16" else batch) + STATE_BYTES * parameters


def _one_run(segments: Sequence[nn.Module], x: Tensor) -> list[int]:
    times: list[int] = []
    ends: list[tuple[Tensor, Tensor]] = []  # of each segment: what goes in, cut off from the one before, and comes out
    for segment in segments:
        leaf = x.detach().requires_grad_(bool(ends) and x.is_floating_point())  # nobody wants the input's gradient
        start = time.perf_counter_ns()
        x = segment(leaf)
        times.append(time.perf_counter_ns() - start)
        ends.append((leaf, x))
    for index in reversed(range(len(segments))):
        leaf, output = ends.pop()
        wanted = [item for item in [leaf, *segments[index].parameters()] if item.requires_grad]
        if not (wanted and output.requires_grad):
            continue
        gradient = torch.ones_like(output)
        start = time.perf_counter_ns()
        torch.autograd.grad(output, wanted, gradient, allow_unused=True)
        times[index] += time.perf_counter_ns() - start
    return times


def _training_batch(example: Tensor, size: int) -> Tensor:
    """Copies of an example's first sample, images in the memory layout of training."""
    batch = example[:1].detach().repeat_interleave(size, 0)
    return batch.contiguous(memory_format=torch.channels_last) if batch.dim() == 4 else batch


def _update_time_ns(optimizers: Optimizers) -> int:
    """Nanoseconds that the optimisers take for a step. Weights stay as they are; gradients are freed."""
    parts = list(optimizers.all.values())
    parameters = [parameter for part in parts for group in part.param_groups for parameter in group["params"]]
    times = []
    for _ in range(REPEATS):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)  # Adam, whose rate is its own, then changes nothing either
        start = time.perf_counter_ns()
        for part in parts:
            apply_gradients(part, lr=0.0)
        times.append(time.perf_counter_ns() - start)
    return min(times)


def output_bytes(network: LocalCriticNetwork, example: Tensor, *, precision: str = "fp32") -> list[int]:
    """Bytes per sample that each group gives. In decoupled training they go over the wire to the next group; those of
    the last are also what an exit's output takes, which goes back where critics distil.

    Args:
        network: in any mode.
        example: an input, [batch, ...], of which the first sample is used.
        precision: of training, fp32 or bf16; outputs are in the type that the last operation of a group gives.
    """
    sizes = []
    x = example[:1].detach()
    config = TrainConfig(precision=precision, device=x.device.type)
    with evaluation_mode(network), torch.no_grad(), config.autocast():
        for group in network.groups:
            x = group(x)
            sizes.append(x.numel() * x.element_size())
    return sizes
