"""PyTorch's data loader, made repeatable: seeded random transforms, checked batches, and errors in one line."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from lctprune.errors import DataError, first_line

Batch = tuple[Tensor, Tensor]  # inputs [batch, ...], targets [batch, ...]
Collate = Callable[[list[Any]], Any]


def load_batches(
    dataset: Any, batch_size: int, *, seed: int, collate: Collate, num_workers: int, **options: Any
) -> Iterator[Batch]:
    """Yield the batches of one pass; their order and what the dataset draws at random depend on `seed` alone.

    Without worker processes, Python's, NumPy's and PyTorch's global generators are seeded anew for each batch and
    restored after it. Worker processes are seeded by the data loader, so what they draw depends on their number too.
    """
    draws = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        dataset,
        batch_size,
        num_workers=num_workers,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )
    iterator = iter(one_line_errors(loader))
    while True:
        with seeded(int(torch.randint(2**31, (), generator=draws))):
            batch = next(iterator, None)
        if batch is None:
            return
        yield checked(batch)


def one_line_errors(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches; raise a `DataError` of a worker process with its message alone, without the traceback there.

    Raises:
        DataError: a worker process raised one.
    """
    try:
        yield from batches
    except DataError as error:
        message = str(error).strip().splitlines()[-1]
        raise DataError(message.removeprefix(f"{DataError.__module__}.DataError: ")) from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators of the CPU inside the block and restore them on exit."""
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    numpy.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])


def collate_pairs(rows: Sequence[Any]) -> Batch:
    """Stack (input, target) pairs by PyTorch's default rule; numbers become float32 and int64.

    Raises:
        DataError: samples are not pairs, or cannot be stacked.
    """
    remedy = "pass collate=, a function that makes (inputs, targets) of a list of samples"
    if not isinstance(rows[0], (tuple, list)) or len(rows[0]) != 2:
        raise DataError(f"a sample of the dataset is {_described(rows[0])}, not an (input, target) pair; {remedy}")
    try:
        inputs, targets = default_collate(list(rows))
    except (TypeError, RuntimeError, ValueError, KeyError) as error:
        raise DataError(
            f"samples of the dataset cannot be stacked to a batch ({first_line(error)}); {remedy}"
        ) from error
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
        raise DataError(f"a sample of the dataset is {_described(rows[0])}, not two tensors or numbers; {remedy}")
    return _single(inputs), _single(targets)


def checked(batch: Any) -> Batch:
    """Return the batch as (inputs, targets), class numbers as int64.

    Raises:
        DataError: it is not two tensors with one row per sample.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        raise DataError(f"collate returned {_described(batch)}; it must return two tensors, (inputs, targets)")
    inputs, targets = batch
    if not inputs.dim() or not targets.dim() or len(inputs) != len(targets):
        raise DataError(
            f"collate returned inputs of {list(inputs.shape)} and targets of {list(targets.shape)}; both must have one "
            "row per sample"
        )
    return inputs, targets if targets.is_floating_point() else targets.long()


def as_targets(values: Any) -> Tensor:
    """Return targets from a tensor, an array or any sequence of numbers, [n, ...]."""
    tensor = torch.as_tensor(values if isinstance(values, (Tensor, numpy.ndarray)) else list(values))
    return _single(tensor) if tensor.is_floating_point() else tensor.long()


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of ({', '.join(type(part).__name__ for part in value)})"
    return f"a {type(value).__name__}"
