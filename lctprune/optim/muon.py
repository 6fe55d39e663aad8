"""Muon: SGD whose updates of convolutions are brought near orthogonal matrices.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. PyTorch's own, `torch.optim.Muon`, takes matrices only,
and computes in bf16 on every processor: where it has no units for that, a matrix of 512 x 4608 takes it seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

QUINTIC = (3.4445, -4.7750, 2.0315)  # a s + b s^3 + c s^5, again and again, takes singular values s to about 1
ITERATIONS = 3
SGD_FACTOR = 20.0  # all that is no convolution learns at this multiple of the rate
MOST_COLUMNS = 128  # of a matrix that does; with more, its rate falls as their number rises
DECAY_FACTOR = 100.0  # of the weight decay of convolutions, whose rate is so small


class Muon(SGD):
    """Orthogonalised Nesterov momentum for convolutions, Nesterov SGD for all other parameters.

    An update of a convolution has singular values of at most about 1.2 `lr`, small ones less, times the root of rows
    over columns where it has more rows than columns; a step also takes `lr * DECAY_FACTOR * weight_decay` of it.
    Whoever changes the rate of a parameter group multiplies it by the group's `lr_factor`, if it has one.

    Args:
        convolutions: weights [out, in, height, width]; each is a matrix with a row for each output.
        others: parameter groups, as of any optimiser, with a `weight_decay` each.
        lr: of convolutions; all others have the multiple of it that `sgd_factor` says.
        momentum: of both.
        weight_decay: of convolutions.
        dtype: in which matrices are orthogonalised.
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
    ) -> None:
        groups = [
            {**group, "params": list(alike), "lr": factor * lr, "lr_factor": factor}
            for group in others
            for factor, alike in itertools.groupby(group["params"], sgd_factor)
        ]
        # plain SGD without momentum, on gradients that `step` has replaced by the update
        plain = {"momentum": 0.0, "nesterov": False, "weight_decay": DECAY_FACTOR * weight_decay}
        if convolutions := list(convolutions):
            groups.append({"params": convolutions, "orthogonal": (momentum, dtype), **plain})
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=True, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change all parameters that have a gradient. Gradients of convolutions are spent."""
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
    """The multiple of the rate at which SGD changes a parameter that is no convolution.

    A step moves a linear layer's outputs the farther the more inputs it has, so a classifier's rate must fall as one
    over their number (Yang et al. 2022, arXiv 2203.03466, Table 3). At one rate for all, that of 512 features jumps to
    and fro, and all layers before it take Muon's steps, which are never short, along with it.
    """
    columns = parameter.shape[1] if parameter.dim() == 2 else 1
    return SGD_FACTOR * min(1.0, MOST_COLUMNS / columns)


def orthogonalized(matrix: Tensor) -> Tensor:
    """The same singular vectors, with singular values near 1: a quintic Newton-Schulz iteration. Those of less than a
    fiftieth of the matrix's norm stay smaller.

    Each step multiplies X from the left by a I + b S + c S^2, where S = X X^T. As all of these are polynomials of the
    first S, they commute, and everything is done on matrices of the shorter side but for the first and last product.

    Args:
        matrix: [rows, columns].
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide: Tensor = matrix.T if is_tall else matrix
    wide = wide / wide.norm().clamp(min=1e-20)  # singular values of at most 1; of nothing, nothing
    squares = wide @ wide.T
    factor = product = _factor(squares)
    for _ in range(ITERATIONS - 1):
        squares = factor @ squares @ factor
        factor = _factor(squares)
        product = factor @ product
    wide = product @ wide
    return wide.T.contiguous() if is_tall else wide


def _factor(squares: Tensor) -> Tensor:
    """a I + b S + c S^2."""
    a, b, c = QUINTIC
    factor: Tensor = torch.addmm(squares, squares, squares, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor
