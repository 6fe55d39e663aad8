"""Compare a converted network with the original: at several batch sizes, and on shorter sequences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lctprune.errors import ExportError, first_line
from lctprune.utils.batches import ROUNDING, runs_alone
from lctprune.utils.modules import evaluation_mode

BATCHES = (1, 3, 64)  # sizes of the batches that a file is compared on
SINGLE_SAMPLES = 8  # number of samples that are also compared one by one
TOLERANCE = 1e-3  # of outputs, relative and absolute: freezing folds batch norm into convolutions, which rounds anew

Runner = Callable[[Tensor], Tensor]


def compare(
    network: nn.Module, converted: Runner, example: Tensor, *, dependence: str | None = None, length: int | None = None
) -> None:
    """Compare the outputs of a converted network with those of the original.

    Args:
        network: original, on the device of the example.
        converted: the converted network.
        example: real samples, [batch, ...].
        dependence: clause as `batch_dependence` gives it.
        length: length of sequences, if the converted network takes no other.

    Raises:
        ExportError: outputs differ by more than rounding, or the converted network does not run.
    """
    for samples in compared_batches(network, example, dependence=dependence, length=length):
        with evaluation_mode(network), torch.no_grad():
            expected = network(samples)
        try:
            with torch.no_grad():
                actual = converted(samples)
        except Exception as error:  # whatever the runtime raises
            raise ExportError(
                f"the converted network fails on inputs of shape {list(samples.shape)}, and the original does not: it "
                f"probably holds a size as a constant; nothing was written ({first_line(error)[:200]})"
            ) from error
        require_close(actual, expected, samples, may_be_nan=bool(dependence))


def compared_batches(
    network: nn.Module, example: Tensor, *, dependence: str | None = None, length: int | None = None
) -> list[Tensor]:
    """Return batches to compare on: of `BATCHES` samples, single ones, and sequences cut to half their length.

    Args:
        network: original.
        example: real samples, [batch, ...]; they are repeated where they are too few.
        dependence: clause as `batch_dependence` gives it; single samples are left out if the network fails on them.
        length: length of sequences, if the converted network takes no other.
    """
    alone = runs_alone(dependence)
    batches = [several(example)] + [repeated(example, size) for size in BATCHES if size > 1 or alone]
    if alone:
        batches += example[:SINGLE_SAMPLES, None].unbind()
    if is_pixels(example):  # of other sizes
        twice = torch.cat([several(example)] * 2, 1)
        batches += [twice, twice[:, :, : -(-3 * twice.shape[2] // 4)]]
    return batches + ([] if length else _shorter(network, several(example)))


def several(example: Tensor) -> Tensor:
    """Return a batch of more than one sample."""
    return example if len(example) > 1 else example.expand(2, *example.shape[1:])


def repeated(example: Tensor, size: int) -> Tensor:
    """Return a batch of `size` samples: the first ones, again and again where there are fewer."""
    return example[torch.arange(size, device=example.device) % len(example)]


def is_sequence(example: Tensor) -> bool:
    """Tell by its shape and type whether an input is sequences: tokens [batch, time], or [batch, time, features]."""
    return example.dim() == (2 if example.dtype == torch.int64 else 3)


def is_pixels(example: Tensor) -> bool:
    """Tell by its shape and type whether an input is images of any size, uint8 [batch, height, width, channels]."""
    return example.dtype == torch.uint8 and example.dim() == 4


def free_sizes(example: Tensor) -> tuple[str, ...]:
    """Name the first sizes of an input, which are free: the batch, and the length or the height and width."""
    further = ("height", "width") if is_pixels(example) else ("length",) if is_sequence(example) else ()
    return ("batch", *further)


def is_close(actual: Tensor, expected: Tensor, *, may_be_nan: bool = False, type: torch.dtype | None = None) -> bool:
    """Tell whether outputs are equal but for rounding, in a type, by default that of the expected ones."""
    tolerance = ROUNDING.get(type or expected.dtype, TOLERANCE)
    return actual.shape == expected.shape and torch.allclose(
        expected, actual.to(expected), rtol=tolerance, atol=tolerance, equal_nan=may_be_nan
    )


def require_close(
    actual: Tensor,
    expected: Tensor,
    samples: Tensor,
    *,
    may_be_nan: bool = False,
    type: torch.dtype | None = None,
) -> None:
    """Require outputs that are equal but for rounding.

    Args:
        actual: outputs of the converted network, [batch, ...].
        expected: outputs of the original, [batch, ...].
        samples: inputs, for the message.
        may_be_nan: whether nan equals nan.
        type: type that both were computed in, by default that of the expected ones.

    Raises:
        ExportError: they are not.
    """
    if not is_close(actual, expected, may_be_nan=may_be_nan, type=type):
        apart = f"; they differ by up to {difference(actual, expected):.3g}" if actual.shape == expected.shape else ""
        raise ExportError(
            f"the converted network differs from the original on inputs of shape {list(samples.shape)} "
            f"(outputs {list(actual.shape)}, expected {list(expected.shape)}{apart}); nothing was written"
        )


def difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference of two tensors of one shape."""
    return float((actual.to(expected) - expected).abs().nan_to_num().max()) if expected.numel() else 0.0


def _shorter(network: nn.Module, example: Tensor) -> list[Tensor]:
    """Cut sequences to half their length; none where inputs are no sequences or the network has a fixed length."""
    if not is_sequence(example):
        return []
    shorter = example[:, : -(-example.shape[1] // 2)]
    try:
        with evaluation_mode(network), torch.no_grad():
            network(shorter)
    except (RuntimeError, AssertionError, ValueError):  # a fixed length
        return []
    return [shorter]
