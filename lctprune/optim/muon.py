"""Muon: SGD whose updates of convolutions are brought near orthogonal matrices.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. PyTorch's own `torch.optim.Muon` takes matrices only,
and computes in bf16 on every processor: on one without bf16 units, a matrix of 512 x 4608 takes it seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

QUINTIC = (3.4445, -4.7750, 2.0315)  # iterating a s + b s^3 + c s^5 takes singular values s to about 1
ITERATIONS = 3
SGD_FACTOR = 20.0  # parameters other than convolutions learn at this multiple of the rate
MOST_COLUMNS = 128  # a matrix with more columns has a lower multiple, in inverse proportion to their number
DECAY_FACTOR = 100.0  # multiple of the weight decay for convolutions, because their rate is small


class Muon(SGD):
    """Orthogonalised Nesterov momentum for convolutions, Nesterov SGD for all other parameters.

    An update of a convolution has singular values of at most about 1.2 `lr`, small ones less, times the root of rows
    over columns where it has more rows than columns; a step also takes `lr * DECAY_FACTOR * weight_decay` of it.
    Whoever changes the rate of a parameter group multiplies it by the group's `lr_factor`, if it has one.

    Args:
        convolutions: weights [out, in, height, width]; each is a matrix with a row per output.
        others: parameter groups, as for any optimiser, with a `weight_decay` each.
        lr: learning rate of convolutions; all others have the multiple of it that `sgd_factor` gives.
        momentum: momentum of both.
        weight_decay: weight decay of convolutions, before `DECAY_FACTOR`.
        dtype: data type in which matrices are orthogonalised.
        factor: multiple of the rate for a parameter, on top of that of its kind.
    """

    def __init__(
        self,
        convolutions: Iterable[Tensor],
        others: Iterable[Mapping[str, Any]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype,
        factor: Callable[[Tensor], float] = lambda _: 1.0,
    ) -> None:
        groups = [
            {**group, "params": list(alike), "lr": multiple * lr, "lr_factor": multiple}
            for group in others
            for multiple, alike in itertools.groupby(group["params"], lambda each: sgd_factor(each) * factor(each))
        ]
        # plain SGD without momentum, on gradients that `step` has replaced by the update
        plain = {"momentum": 0.0, "nesterov": False, "weight_decay": DECAY_FACTOR * weight_decay}
        for multiple, alike in itertools.groupby(convolutions, factor):
            rate = {"lr": multiple * lr, "lr_factor": multiple}
            groups.append({"params": list(alike), "orthogonal": (momentum, dtype), **plain, **rate})
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=True, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient; the gradients of convolutions are overwritten.

        Where `GradScaler` has found that a gradient is not finite, it sets `found_inf`: then nothing changes.
        """
        for group in self.param_groups:
            if "orthogonal" in group:
                self._replace_gradients(group["params"], *group["orthogonal"])
        super().step()

    def _replace_gradients(self, weights: Sequence[Tensor], momentum: float, dtype: torch.dtype) -> None:
        """Put the update of each weight in the place of its gradient."""
        weights = [weight for weight in weights if weight.grad is not None]
        averages = [self._average(weight) for weight in weights]
        if (found := getattr(self, "found_inf", None)) is not None:  # decided on the device, which nobody waits for
            for weight, average in zip(weights, averages, strict=True):
                assert weight.grad is not None
                weight.grad = torch.where(found.to(average.device) > 0, average, weight.grad)  # the average stays
        if weights and all(weight.is_cuda for weight in weights):
            _replace_together(weights, averages, momentum, dtype)
        else:
            for weight, average in zip(weights, averages, strict=True):
                _replace(weight, average, momentum, dtype)

    def _average(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "average" not in state:
            state["average"] = torch.zeros_like(weight)
        average: Tensor = state["average"]
        return average


def _replace(weight: Tensor, average: Tensor, momentum: float, dtype: torch.dtype) -> None:
    """Put the update of a weight in the place of its gradient; `average` is that of all gradients so far."""
    assert weight.grad is not None
    average.lerp_(weight.grad, 1 - momentum)
    matrix = _as_matrix(weight.grad.lerp(average, momentum))
    update = orthogonalized(matrix.to(dtype)).mul_(_size(matrix))
    # in the weight's memory layout, which fused SGD takes for granted
    weight.grad = torch.empty_like(weight).copy_(_as_weight(update, weight))


def _replace_together(weights: list[Tensor], averages: list[Tensor], momentum: float, dtype: torch.dtype) -> None:
    """Do what `_replace` does to many weights: elementwise in one kernel, and matrices of a shape in one product.

    On a GPU the matrices of most layers are too small to keep it busy, and starting a kernel takes longer than it runs.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    torch._foreach_lerp_(averages, gradients, 1 - momentum)
    matrices = [_as_matrix(each) for each in torch._foreach_lerp(gradients, averages, momentum)]
    alike: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        alike.setdefault(matrix.shape, []).append(index)
    updates = list(matrices)
    for indices in alike.values():
        stacked = torch.stack([matrices[index] for index in indices]).to(dtype)
        for index, update in zip(indices, orthogonalized(stacked).mul_(_size(stacked)), strict=True):
            updates[index] = update
    torch._foreach_copy_(gradients, [_as_weight(*each) for each in zip(updates, weights, strict=True)])


def _as_matrix(direction: Tensor) -> Tensor:
    """View a change of a convolution as a matrix: [out, in, height, width] -> [out, height * width * in]."""
    return direction.movedim(1, -1).flatten(1)  # in the order of memory, where channels are last


def _as_weight(matrix: Tensor, weight: Tensor) -> Tensor:
    """Undo `_as_matrix`."""
    out, channels, *window = weight.shape
    return matrix.view(out, *window, channels).movedim(-1, 1)


def _size(matrix: Tensor) -> float:
    """Return the singular values that an update has."""
    rows, columns = matrix.shape[-2:]
    return float(max(1.0, rows / columns) ** 0.5)


def sgd_factor(parameter: Tensor) -> float:
    """Return the multiple of the rate at which SGD changes a parameter that is not a convolution.

    A step moves a linear layer's outputs the farther the more inputs it has, so a classifier's rate must fall as one
    over their number (Yang et al. 2022, arXiv 2203.03466, Table 3). At one rate for all, a classifier of 512 features
    oscillates, and all layers before it follow with Muon's steps, which are never short.
    """
    columns = parameter.shape[1] if parameter.dim() == 2 else 1
    return SGD_FACTOR * min(1.0, MOST_COLUMNS / columns)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Bring singular values near 1 and keep the singular vectors, by a quintic Newton-Schulz iteration.

    Singular values below a fiftieth of the matrix's norm stay smaller. Each step multiplies X from the left by
    a I + b S + c S^2, where S = X X^T. As all of these are polynomials of the first S, they commute, and all products
    but the first and the last are of matrices of the shorter side.

    Args:
        matrix: matrix, [rows, columns]; or several, [n, rows, columns].
    """
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    wide: Tensor = matrix.mT if is_tall else matrix
    norm = wide.norm() if wide.dim() == 2 else wide.flatten(1).norm(dim=1)[:, None, None]
    wide = wide / norm.clamp(min=1e-20)  # singular values of at most 1; zeros stay zeros
    squares = wide @ wide.mT
    factor = product = _factor(squares)
    for _ in range(ITERATIONS - 1):
        squares = factor @ squares @ factor
        factor = _factor(squares)
        product = factor @ product
    wide = product @ wide
    return wide.mT.contiguous() if is_tall else wide


def _factor(squares: Tensor) -> Tensor:
    """Compute a I + b S + c S^2."""
    a, b, c = QUINTIC
    add_product = torch.addmm if squares.dim() == 2 else torch.baddbmm
    factor: Tensor = add_product(squares, squares, squares, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor
