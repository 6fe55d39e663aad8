"""PyTorch's global settings for training on CUDA, for the time of a training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

LONG = 500  # steps from which on a search pays, which takes as long as tens of steps for every shape of a tensor


@contextmanager
def tuned_for(device: str, steps: int = LONG) -> Iterator[None]:
    """On CUDA, let products of fp32 use TF32, and cuDNN look for the fastest algorithms; restore both on exit.

    Nothing is changed where deterministic algorithms are on (`torch.use_deterministic_algorithms`), as two searches may
    find different algorithms; nor is a precision of fp32 products that the caller has chosen.

    Args:
        device: device of training.
        steps: steps of the training; a short one does without the search.
    """
    with ExitStack() as stack:
        if torch.device(device).type == "cuda" and not torch.are_deterministic_algorithms_enabled():
            if steps >= LONG:
                stack.enter_context(searching_algorithms(is_on=True))
            if torch.backends.cuda.matmul.fp32_precision == "none":  # convolutions may use TF32 by default
                stack.enter_context(_allowing_tf32())
        yield


@contextmanager
def searching_algorithms(*, is_on: bool) -> Iterator[None]:
    """Set whether cuDNN looks for the fastest algorithm of every shape it meets; restore it on exit."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = is_on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _allowing_tf32() -> Iterator[None]:
    """Allow TF32 in matrix products, whose precision nobody has set.

    After `fp32_precision = "tf32"`, reading the older settings is an error, and torch.compile reads them; so this sets
    the older one, of which some versions of PyTorch warn.
    """
    matmul = torch.backends.cuda.matmul
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matmul.allow_tf32 = True
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            matmul.allow_tf32 = False
            matmul.fp32_precision = "none"
