"""Time and memory that the parts of a network take in a step of training on this machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lctprune.config.precision import autocast
from lctprune.config.training import ResolvedTrainConfig
from lctprune.losses import Loss
from lctprune.network import LocalCriticNetwork
from lctprune.optim.optimizers import Optimizers, apply_gradients
from lctprune.update import Objective, local_critic_step
from lctprune.utils.modules import evaluation_mode, training_for_now, training_layout
from lctprune.utils.transfer import synchronize

REPEATS = 3
STATE_BYTES = 12  # a parameter in training, its gradient and its momentum, in single precision
MEMORY_BYTES = 2 * 2**30  # limit of what the activations of a timed batch take


def as_timed(training: ResolvedTrainConfig, bytes_per_sample: int) -> ResolvedTrainConfig:
    """Reduce the batch size where a batch's activations would take more than `MEMORY_BYTES`."""
    size = max(2, min(training.batch_size, MEMORY_BYTES // max(1, bytes_per_sample)))
    return dataclasses.replace(training, batch_size=size)


def segment_times_ns(segments: Sequence[nn.Module], example: Tensor, config: ResolvedTrainConfig) -> list[int]:
    """Measure the nanoseconds that each of consecutive segments adds to a step of training, in training mode.

    All segments run forward, then all backward in reverse, as in training: what a segment saves has left the cache by
    the time its backward pass wants it. The optimiser's step counts too. Leaves states, gradients and the random
    generator as they were.

    Args:
        segments: modules, each of which takes the output of the one before.
        example: input of the first segment, [batch, ...], of which the first sample is used.
        config: training whose batch size, precision and optimiser are used.
    """
    with training_for_now(nn.ModuleList(segments)), config.autocast(), torch.enable_grad():
        layout = training_layout(nn.ModuleList(segments), "cpu")
        times = [_one_run(segments, _training_batch(example, config.batch_size, layout)) for _ in range(REPEATS)]
        updates = [_update_time_ns(Optimizers(segment, None, config)) for segment in segments]
    return [min(column) + update for *column, update in zip(*times, updates, strict=True)]


def group_seconds(
    network: LocalCriticNetwork,
    inputs: Tensor,
    targets: Tensor,
    config: ResolvedTrainConfig,
    *,
    loss: Loss,
    repeats: int = REPEATS,
) -> list[float]:
    """Measure the seconds that each group with its critic takes in a step: the least of `repeats`.

    Leaves the network as it was.

    Args:
        network: network on the device of the batch.
        inputs: inputs of a batch.
        targets: targets of the batch, [batch, ...].
        config: training whose precision and optimiser are used.
        loss: loss per sample.
        repeats: number of steps.
    """
    seconds = [[0.0] * len(network.groups) for _ in range(repeats)]
    objective = Objective(matching=0.0)
    with training_for_now(network), config.autocast():
        for row in seconds:
            synchronize(inputs.device)
            start = time.perf_counter()
            for event in local_critic_step(network.parts(), inputs, targets, loss=loss, objective=objective):
                synchronize(inputs.device)
                row[event.index] += time.perf_counter() - start
                start = time.perf_counter()
        updates = [_update_time_ns(Optimizers(group, critic, config)) / 1e9 for _, group, critic in network.parts()]
    return [min(column) + update for *column, update in zip(*seconds, updates, strict=True)]


def critic_time_ns(critic: nn.Module, shape: tuple[int, ...], config: ResolvedTrainConfig) -> int:
    """Measure the nanoseconds that a critic adds to a step of training.

    Args:
        critic: critic, on the CPU.
        shape: shape of its input without the batch.
        config: training whose batch size, precision and optimiser are used.
    """
    layout = training_layout(critic, "cpu")
    inputs = _training_batch(torch.zeros(1, *shape), config.batch_size, layout).requires_grad_()
    parameters = [parameter for parameter in critic.parameters() if parameter.requires_grad]
    times = []
    with config.autocast(), torch.enable_grad():
        for _ in range(REPEATS):
            start = time.perf_counter_ns()
            output = critic(inputs).sum()
            torch.autograd.grad(output, [inputs], retain_graph=True)  # for the group
            torch.autograd.grad(output, parameters)  # for the critic itself
            times.append(time.perf_counter_ns() - start)
        return min(times) + _update_time_ns(Optimizers(nn.Identity(), critic, config))


def training_bytes(activation_bytes: int, parameters: int, config: ResolvedTrainConfig) -> int:
    """Estimate the bytes that training a module takes: activations, and parameters with gradients and momentum.

    Args:
        activation_bytes: bytes saved for the backward pass of one sample, in single precision.
        parameters: number of parameters.
        config: training whose batch size and precision are used.
    """
    batch = activation_bytes * config.batch_size
    return (batch // 2 if config.precision != "fp32" else batch) + STATE_BYTES * parameters


def _one_run(segments: Sequence[nn.Module], x: Tensor) -> list[int]:
    times: list[int] = []
    ends: list[tuple[Tensor, Tensor]] = []  # each segment's input, cut off from the segment before, and its output
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


def _training_batch(example: Tensor, size: int, layout: torch.memory_format) -> Tensor:
    """Repeat an example's first sample `size` times, images in the memory layout of training."""
    batch = example[:1].detach().repeat_interleave(size, 0)
    return batch.contiguous(memory_format=layout) if batch.dim() == 4 else batch


def _update_time_ns(optimizers: Optimizers) -> int:
    """Measure the nanoseconds of the optimisers' step. Weights stay as they are; gradients are freed."""
    parts = list(optimizers.all.values())
    parameters = [parameter for part in parts for group in part.param_groups for parameter in group["params"]]
    times = []
    for _ in range(REPEATS):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)  # Adam, whose rate is its own, then changes nothing either
        devices = {parameter.device for parameter in parameters}
        _wait(devices)
        start = time.perf_counter_ns()
        for part in parts:
            apply_gradients(part, lr=0.0)
        _wait(devices)
        times.append(time.perf_counter_ns() - start)
    return min(times)


def _wait(devices: Iterable[torch.device]) -> None:
    for device in devices:
        synchronize(device)


def output_bytes(network: LocalCriticNetwork, example: Tensor, *, precision: str = "fp32") -> list[int]:
    """Measure the bytes per sample of each group's output.

    In decoupled training they are sent to the next group. The last group's are also the size of an exit's output, which
    is sent back where critics distil.

    Args:
        network: network in any mode.
        example: input, [batch, ...], of which the first sample is used.
        precision: precision of training: fp32, bf16 or fp16; an output has the type that its group's last operation
            gives.
    """
    sizes = []
    x = example[:1].detach()
    with evaluation_mode(network), torch.no_grad(), autocast(x.device.type, precision):
        for group in network.groups:
            x = group(x)
            sizes.append(x.numel() * x.element_size())
    return sizes
