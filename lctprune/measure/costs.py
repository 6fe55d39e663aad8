"""Measure what a network costs: FLOPs, parameters, bytes.

One FLOP is one multiply or one add, so `flops = 2 * macs`. Matrix products and convolutions are counted (without
biases), as is usual; normalisation, activations, pooling and moving data count as nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lctprune.errors import NetworkWarning, UnknownOperationError, first_line
from lctprune.measure.flop_formulas import missing_formulas
from lctprune.measure.free_operations import is_free
from lctprune.utils.modules import evaluation_mode, stored_bytes

_T = TypeVar("_T")

_REMEDY = (
    "register one with torch.utils.flop_counter.register_flop_formula, or build the layer from operations that have one"
)


class FlopCount(NamedTuple):
    """FLOPs of the operations whose formula is known, and the names of all others, once per call."""

    known: int
    unknown: tuple[str, ...]

    @property
    def total(self) -> int | None:
        """All FLOPs; None where an operation has no formula."""
        return None if self.unknown else self.known


def count_flops(network: nn.Module, example: Tensor) -> int:
    """Count the FLOPs of a network's inference per sample.

    One FLOP is one multiply or one add: twice the multiply-adds of matrix products and convolutions.

    Args:
        network: module, which runs once in evaluation mode, on the first sample; its mode is restored.
        example: batch of any size, [batch, ...].

    Raises:
        UnknownOperationError: the network uses an operation without a FLOP formula.
    """
    count = count_known_flops(network, example)
    if count.unknown:
        raise UnknownOperationError(f"{_without_formula(count.unknown)}; {_REMEDY}")
    return count.known


def count_known_flops(network: nn.Module, example: Tensor) -> FlopCount:
    """Count the FLOPs of a network's inference per sample, and name the operations without a FLOP formula.

    Arguments are those of `count_flops`.
    """
    return count_on_the_way(network, example)[1]


def count_on_the_way(network: nn.Module, example: Tensor) -> tuple[Tensor, FlopCount]:
    """Count as `count_known_flops` does, and also return the network's output, for as few samples as it runs on."""

    def counted(samples: Tensor) -> tuple[Tensor, FlopCount]:
        try:
            with counting_flops() as count:
                output, flops = network(samples), count()
        except Exception as error:  # such as an operation that PyTorch's counter cannot follow
            return network(samples), FlopCount(0, (first_line(error),))  # the network's own errors are raised here
        return output, flops._replace(known=flops.known // len(samples))

    with evaluation_mode(network), torch.no_grad():
        return on_few_samples(counted, example)


def on_few_samples(run: Callable[[Tensor], _T], example: Tensor) -> _T:
    """Run on an example's first sample; on it twice where that fails, as some batch norms need two samples."""
    first = example[:1].detach()
    try:
        return run(first)
    except Exception:
        with suppress(Exception):
            return run(first.repeat_interleave(2, 0))
        raise


def warn_of_unknown_operations(counts: Iterable[FlopCount], consequence: str) -> None:
    """Warn once of all operations without a FLOP formula; without such operations do nothing.

    Warns:
        NetworkWarning: an operation has no FLOP formula, with its name and the consequence.
    """
    unknown = [name for count in counts for name in count.unknown]
    if unknown:
        warnings.warn(f"{_without_formula(unknown)}, so {consequence}; {_REMEDY}", NetworkWarning, stacklevel=3)


@contextmanager
def counting_flops() -> Iterator[Callable[[], FlopCount]]:
    """Count the FLOPs of what runs inside; the value is a function that returns the count so far."""
    counter = FlopCounterMode(display=False, custom_mapping=missing_formulas())
    unknown = _UnknownOperations(counter.flop_registry)
    with _without_attention_fast_path(), unknown, counter:
        yield lambda: FlopCount(counter.get_total_flops(), tuple(unknown.names))


@contextmanager
def _without_attention_fast_path() -> Iterator[None]:
    """Run encoder layers as plain operations: the fast path packs padded sequences, whose shapes are not known."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _UnknownOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what the FLOP counter would silently count as 0, such as a custom kernel."""

    def __init__(self, known: Container[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket not in self.known and not is_free(func):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def _without_formula(names: Iterable[str]) -> str:
    unique = dict.fromkeys(names)
    subject = "the operation {} has" if len(unique) == 1 else "the operations {} have"
    return f"{subject.format(', '.join(unique))} no FLOP formula"


def count_parameters(network: nn.Module) -> int:
    """Count a network's parameters, trainable and frozen; one that several layers use counts once."""
    return sum(parameter.numel() for parameter in network.parameters())


def saved_bytes(network: nn.Module, example: Tensor) -> int:
    """Count the bytes of activations that autograd keeps for one sample's backward pass, parameters left out."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def saved(samples: Tensor) -> int:
        with saving_bytes(set(), ignored=parameters) as count:
            network(samples.clone().requires_grad_(samples.is_floating_point()))
            return count() // len(samples)

    with evaluation_mode(network), torch.enable_grad():
        return on_few_samples(saved, example)


@contextmanager
def saving_bytes(seen: set[int], *, ignored: Collection[int]) -> Iterator[Callable[[], int]]:
    """Count the bytes that autograd saves inside; the value is a function that returns the count so far.

    Args:
        seen: addresses of storages that have been counted already; those saved inside are added.
        ignored: addresses of storages that do not count, such as those of parameters.
    """
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen and storage.data_ptr() not in ignored:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor.detach()  # or an operation that saves its own output would keep itself alive for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: total


def size_bytes(network: nn.Module) -> int:
    """Count the bytes of a network's state dict (parameters and buffers); a tensor with several names counts once."""
    return stored_bytes(network)
