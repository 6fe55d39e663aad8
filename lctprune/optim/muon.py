"""Muon: SGD whose updates of convolutions are brought near orthogonal matrices.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. PyTorch's own `torch.optim.Muon` takes matrices only,
and computes in bf16 on every processor: on one without bf16 units, a matrix of 512 x 4608 takes it seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
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
        """Update all parameters that have a gradient; the gradients of convolutions are overwritten."""
        for group in self.param_groups:
            for weight in group["params"] if "orthogonal" in group else ():
                if weight.grad is not None:
                    weight.grad = self._update(weight, *group["orthogonal"])
        super().step()

    def _update(self, weight: Tensor, momentum: float, dtype: torch.dtype) -> Tensor:
        assert weight.grad is not None
        state = self.state[weight]
        if "average" not in state:
            state["average"] = torch.zeros_like(weight)
        average = state["average"].lerp_(weight.grad, 1 - momentum)
        direction = weight.grad.lerp(average, momentum).movedim(1, -1)  # [out, height, width, in], as channels last are
        matrix = direction.flatten(1)
        rows, columns = matrix.shape
        update = orthogonalized(matrix.to(dtype)).mul_(max(1.0, rows / columns) ** 0.5)
        # in the weight's memory layout, which fused SGD takes for granted
        return torch.empty_like(weight).copy_(update.view(direction.shape).movedim(-1, 1))


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
        matrix: matrix, [rows, columns].
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide: Tensor = matrix.T if is_tall else matrix
    wide = wide / wide.norm().clamp(min=1e-20)  # singular values of at most 1; zeros stay zeros
    squares = wide @ wide.T
    factor = product = _factor(squares)
    for _ in range(ITERATIONS - 1):
        squares = factor @ squares @ factor
        factor = _factor(squares)
        product = factor @ product
    wide = product @ wide
    return wide.T.contiguous() if is_tall else wide


def _factor(squares: Tensor) -> Tensor:
    """Compute a I + b S + c S^2."""
    a, b, c = QUINTIC
    factor: Tensor = torch.addmm(squares, squares, squares, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor
