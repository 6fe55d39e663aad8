"""What a network costs: FLOPs, parameters, bytes, and latency on this machine.

One FLOP is one multiply or one add, so `flops = 2 * macs`. Counted are matrix products and convolutions (biases left
out), as the field does; normalisation, activations, pooling and moving data count as nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import lctprune.measure.flop_formulas  # noqa: F401, registers them
from lctprune.errors import UnknownOperationError
from lctprune.utils.modules import evaluation_mode

# operations without multiply-adds worth counting that PyTorch tags neither as pointwise, nor reduction, nor view
_FREE = frozenset(
    (
        "_adaptive_avg_pool2d _adaptive_avg_pool3d _local_scalar_dense _log_softmax _native_batch_norm_legit "
        "_native_batch_norm_legit_no_training _prelu_kernel _safe_softmax _softmax _to_copy _unsafe_index "
        "_unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _weight_norm_interface adaptive_max_pool2d "
        "adaptive_max_pool3d arange avg_pool2d avg_pool3d bernoulli_ cat channel_shuffle col2im constant_pad_nd "
        "copy_ cudnn_batch_norm cumprod cumsum embedding empty empty_like eye fill_ flip full full_like gather glu "
        "grid_sampler_2d hardsigmoid_ hardswish hardswish_ im2col index index_add index_put_ index_select linspace "
        "log_sigmoid_forward max_pool2d_with_indices max_pool3d_with_indices native_batch_norm native_dropout "
        "native_group_norm native_layer_norm new_empty new_zeros normal_ ones ones_like pixel_shuffle "
        "pixel_unshuffle rand rand_like randn randn_like reflection_pad1d reflection_pad2d reflection_pad3d repeat "
        "replication_pad1d replication_pad2d replication_pad3d resize_ roll scalar_tensor scatter scatter_ "
        "scatter_add sort stack topk tril triu unsafe_split upsample_bicubic2d upsample_bilinear2d upsample_linear1d "
        "upsample_nearest2d upsample_trilinear3d zero_ zeros zeros_like "
    ).split()
)


class Latency(NamedTuple):
    """Time of one call in milliseconds: median, and 5th and 95th percentile."""

    median_ms: float
    p5_ms: float
    p95_ms: float


def count_flops(network: nn.Module, example: Tensor) -> int:
    """FLOPs of one sample's inference.

    Args:
        network: run once in evaluation mode, on the first sample; its mode is put back.
        example: [batch, ...], a batch of any size.

    Raises:
        UnknownOperationError: the network uses an operation that the counter does not know.
    """
    with evaluation_mode(network), torch.no_grad(), counting_flops() as flops:
        network(example[:1].detach())
        return flops()


@contextmanager
def counting_flops() -> Iterator[Callable[[], int]]:
    """Count the FLOPs of what runs inside; the value is a function that gives the count so far."""
    only_known = _OnlyKnownOperations()  # type: ignore[no-untyped-call]
    with only_known, FlopCounterMode(display=False) as counter:
        yield counter.get_total_flops


class _OnlyKnownOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what the FLOP counter would silently count as 0, such as a fused LSTM or a custom kernel."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket
        free = (
            func.is_view
            or torch.Tag.pointwise in func.tags
            or torch.Tag.reduction in func.tags
            or torch.Tag.inplace_view in func.tags
            or (func.namespace in ("aten", "prims") and packet.__name__ in _FREE)
        )
        if not free and packet not in flop_registry:
            raise UnknownOperationError(
                f"the operation {func} has no FLOP formula; register one with "
                "torch.utils.flop_counter.register_flop_formula, or build the layer from plain ones"
            )
        return func(*args, **(kwargs or {}))


def count_parameters(network: nn.Module) -> int:
    """Number of trainable and frozen parameters, shared ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def saved_bytes(network: nn.Module, example: Tensor) -> int:
    """Bytes of activations that autograd keeps for one sample's backward pass; parameters are not among them."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    with evaluation_mode(network), torch.enable_grad(), saving_bytes(set(), ignored=parameters) as saved:
        network(example[:1].detach().clone().requires_grad_(example.is_floating_point()))
        return saved()


@contextmanager
def saving_bytes(seen: set[int], *, ignored: Collection[int]) -> Iterator[Callable[[], int]]:
    """Count the bytes that autograd saves inside; the value is a function that gives the count so far.

    Args:
        seen: addresses of storages that count no more; those saved inside are added.
        ignored: addresses of storages that do not count, such as those of parameters.
    """
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen and storage.data_ptr() not in ignored:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor.detach()  # an operation that saved its own output would keep itself alive for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: total


def size_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers of a state dict, of those that stand in it twice once."""
    tensors = {id(tensor): tensor for tensor in network.state_dict(keep_vars=True).values()}
    return sum(tensor.nbytes for tensor in tensors.values())


def measure_latency(
    networks: Sequence[Callable[[Tensor], object]], example: Tensor, *, repeats: int = 50, warmup: int = 5
) -> list[Latency]:
    """Time each network on `example`, in turns, so that what slows the machine down hits all of them alike.

    Args:
        networks: callables, in the form in which they will be deployed.
        example: the input of every call.
        repeats: timed calls of each network.
        warmup: calls of each before the clock runs.

    Returns:
        One `Latency` a network.
    """
    times_ms: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode():
        for repeat in range(warmup + repeats):
            for network, times in zip(networks, times_ms, strict=True):
                start = time.perf_counter()
                network(example)
                if example.is_cuda:
                    torch.cuda.synchronize()
                if repeat >= warmup:
                    times.append(1e3 * (time.perf_counter() - start))
    return [_summary(times) for times in times_ms]


def _summary(times: list[float]) -> Latency:
    if len(times) == 1:
        return Latency(times[0], times[0], times[0])
    twentieths = statistics.quantiles(times, n=20, method="inclusive")
    return Latency(statistics.median(times), twentieths[0], twentieths[-1])
