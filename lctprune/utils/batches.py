"""Find outputs that depend on the rest of the batch, by comparing a batch with its samples one by one."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from lctprune.errors import first_line

SAMPLES = 8  # compared
ROUNDING = {torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the coarser types, relative to the largest output
FLOAT32_ROUNDING = 1e-3
NOTICEABLE = 1e-2  # relative to how far outputs differ from each other
CAUSES = "is there a batch norm without running statistics, or padding that is not masked?"
FAILS_ALONE = "does not run on one sample alone"
DIFFERS_ALONE = "gives a sample alone other outputs than in a batch"


def runs_alone(clause: str | None) -> bool:
    """Tell from a clause of `batch_dependence` whether the network runs on one sample."""
    return not (clause or "").startswith(FAILS_ALONE)


def batch_dependence(network: Callable[[Tensor], Tensor], samples: Tensor) -> str | None:
    """Say how a network's outputs depend on the rest of the batch; None where they do not.

    The padding of token sequences (zeros at the end) is taken from the single samples, as they come without it.

    Args:
        network: network in evaluation mode; call it without gradients.
        samples: several samples, [batch, ...], of which the first ones are compared.

    Returns:
        A clause that continues the network's name, for a message.
    """
    samples = samples[:SAMPLES]
    if len(samples) < 2:
        return None
    together = network(samples)
    if not isinstance(together, Tensor) or len(together) != len(samples):
        return None
    if _is_other(network(samples), together).any():
        return None  # it draws random numbers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of the deviation of one number
            alone = torch.cat([_alone(network, sample[None]) for sample in samples])
    except Exception as error:  # whatever the network's own code raises
        return f"{FAILS_ALONE} ({first_line(error)})"
    if alone.shape != together.shape:
        return None
    others = int(_is_other(alone, together).sum())
    # a single sample may stand where rounding decides between two branches
    return DIFFERS_ALONE if others >= min(2, len(samples) - 1) else None


def _alone(network: Callable[[Tensor], Tensor], sample: Tensor) -> Tensor:
    if sample.dim() == 2 and not sample.is_floating_point():
        length = max(1, int((sample[0] != 0).nonzero().max()) + 1 if sample.any() else 1)
        if length < sample.shape[1]:
            try:
                return network(sample[:, :length])
            except Exception:  # it takes one length only, and then no batch comes in another
                return network(sample)
    return network(sample)


def _is_other(outputs: Tensor, expected: Tensor) -> Tensor:
    """Tell for which samples outputs differ by more than rounding, [batch]; only where `expected` is finite."""
    outputs, expected = outputs.flatten(1).double(), expected.flatten(1)
    rounding = ROUNDING.get(expected.dtype, FLOAT32_ROUNDING)
    expected = expected.double()
    is_finite = expected.isfinite()
    finite = expected[is_finite]
    if not finite.numel():
        return torch.zeros(len(expected), dtype=torch.bool, device=expected.device)
    tolerance = rounding * finite.abs().max() + NOTICEABLE * (finite - finite.mean()).square().mean().sqrt()
    is_other = (outputs - expected).abs() > tolerance
    return (is_finite & (is_other | ~outputs.isfinite())).any(1)
