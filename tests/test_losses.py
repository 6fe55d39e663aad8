"""Losses per sample, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import lctprune as lct
from lctprune.losses import softened_distance


def batch(*shape: int, classes: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits [shape[0], classes, *shape[1:]], and a class for each."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape[0], classes, *shape[1:], generator=generator, dtype=torch.double)
    return logits.to(dtype), torch.randint(classes, shape, generator=generator)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_of_each_sample_is_pytorchs(label_smoothing: float) -> None:
    logits, target = batch(7)
    losses = lct.cross_entropy(logits, target, label_smoothing=label_smoothing)
    assert losses.shape == (7,)
    for loss, row, label in zip(losses, logits, target, strict=True):
        torch.testing.assert_close(
            loss, functional.cross_entropy(row[None], label[None], label_smoothing=label_smoothing)
        )


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [3.0, 3.0 + torch.log(torch.tensor(3.0)).item()]])
    expected = torch.tensor([2.0, 4 / 3]).log()
    torch.testing.assert_close(lct.cross_entropy(logits, torch.tensor([0, 1])), expected)
    # smoothed by s, the target has probability 1 - s/2 and the other class s/2
    smoothed = torch.tensor([2.0, (4 / 3) ** 0.8 * 4**0.2]).log()
    torch.testing.assert_close(lct.cross_entropy(logits, torch.tensor([0, 1]), label_smoothing=0.4), smoothed)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 3, 4, 2), (3, 1)])
def test_cross_entropy_averages_over_further_dimensions(shape: tuple[int, ...], label_smoothing: float) -> None:
    logits, target = batch(*shape)
    losses = lct.cross_entropy(logits, target, label_smoothing=label_smoothing)
    assert losses.shape == (shape[0],)
    for loss, row, labels in zip(losses, logits, target, strict=True):
        expected = functional.cross_entropy(row[None], labels[None], label_smoothing=label_smoothing)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 2, 3)])
def test_mean_squared_error_of_each_sample_is_pytorchs(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(2, *shape, generator=generator).unbind()
    losses = lct.mean_squared_error(output, target)
    assert losses.shape == (4,)
    for loss, row, wanted in zip(losses, output, target, strict=True):
        torch.testing.assert_close(loss, functional.mse_loss(row, wanted))


@pytest.mark.parametrize(("output_shape", "target_shape"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 2, 3), (4, 6))])
def test_mean_squared_error_never_broadcasts(output_shape: tuple[int, ...], target_shape: tuple[int, ...]) -> None:
    output, target = torch.arange(24.0)[: torch.Size(output_shape).numel()], torch.zeros(target_shape)
    expected = output.reshape(4, -1).square().mean(1)
    torch.testing.assert_close(lct.mean_squared_error(output.reshape(output_shape), target), expected)


@pytest.mark.parametrize(("output_shape", "target_shape"), [((4, 3), (4,)), ((4, 3), (4, 1)), ((4,), (5,))])
def test_mean_squared_error_of_shapes_that_do_not_go_together_is_refused(
    output_shape: tuple[int, ...], target_shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="same number of elements per sample"):
        lct.mean_squared_error(torch.zeros(output_shape), torch.zeros(target_shape))


def test_mean_squared_error_does_not_mix_samples() -> None:
    # as many elements in all, but not per sample
    with pytest.raises(ValueError, match="same number of elements per sample"):
        lct.mean_squared_error(torch.zeros(4, 2), torch.zeros(2, 4))


def test_mean_squared_error_takes_whole_numbers_as_targets() -> None:
    output = torch.tensor([[0.5], [2.0]])
    torch.testing.assert_close(lct.mean_squared_error(output, torch.tensor([1, 4])), torch.tensor([0.25, 4.0]))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 2), (6, 5, 2, 3)])
def test_the_softened_distance_is_one_number_per_sample(shape: tuple[int, ...]) -> None:
    output, teacher = torch.randn(shape).double(), torch.randn(shape).double()
    own, wanted = (output / 4).softmax(1), (teacher / 4).softmax(1)
    divergence = 16 * (wanted * (wanted / own).log()).sum(1)
    expected = torch.stack([each.mean() for each in divergence])
    torch.testing.assert_close(softened_distance(output, teacher), expected)
    assert softened_distance(output, output).abs().max() < 1e-12
    assert softened_distance(output.bfloat16(), teacher.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_losses_have_at_least_single_precision(given_dtype: torch.dtype, expected: torch.dtype) -> None:
    logits, target = batch(6, dtype=given_dtype)
    losses = lct.cross_entropy(logits, target)
    squared = lct.mean_squared_error(logits, torch.ones(6, 5, dtype=given_dtype))
    assert losses.dtype == expected
    assert squared.dtype == expected
    # the values are those of the rounded input in higher precision, not of arithmetic in low precision
    exact = functional.cross_entropy(logits.double(), target, reduction="none")
    torch.testing.assert_close(losses.double(), exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(squared.double(), (logits.double() - 1).square().mean(1), rtol=1e-5, atol=1e-6)
