"""Cluttered digits: handwritten digits at random places among pieces of other digits, made from the embedded ones.

A picture is empty at first. Pieces of other digits are pasted at random places, then the digit that is to be
recognised, whole, at its own random place; where they overlap the brighter pixel stays. Every pass over the training
split draws new pictures of its digits; validation and test pictures are drawn once, several of each digit. No
handwritten digit, and no piece of one, stands in two splits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lctprune.data.preprocessing import NO_AUGMENTATION, Augmentation, Normalization
from lctprune.data.splits import Batch
from lctprune.data.tensor_split import TensorSplit

SIZE = 24  # default side of a picture, in pixels
DIGIT, PIECE = 1 / 2, 1 / 4  # sides of a digit and of a piece, as fractions of the picture's
PIECES = 4  # pieces of other digits in a picture
HELD_OUT_PICTURES = 4  # pictures of each validation and test digit


def digit_side(size: int) -> int:
    """Return the side of a digit in pictures of `size` pixels a side."""
    return round(size * DIGIT)


class ClutteredSplit(TensorSplit):
    """A split whose shuffled batches show each digit in a new picture in every pass.

    Args:
        digits: uint8 [n, side, side, 1].
        targets: class numbers, [n].
        size: side of a picture, in pixels.
        seed: random seed of the pictures of `batches`.
        normalization: mean and deviation by which pictures are normalised; by default those of the split itself.
        augmentation: further random changes, in `shuffled` alone.
        redrawn: whether a pass over shuffled batches draws new pictures.
    """

    def __init__(
        self,
        digits: Tensor,
        targets: Tensor,
        *,
        size: int,
        seed: int,
        normalization: Normalization | None = None,
        augmentation: Augmentation = NO_AUGMENTATION,
        redrawn: bool = False,
    ) -> None:
        pictures = clutter(digits, size=size, seed=seed)
        super().__init__(pictures, targets, normalization or Normalization.of(pictures), augmentation)
        self.digits, self._size, self._redrawn = digits, size, redrawn

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Yield full batches in an order by `seed`, of new pictures by `seed`."""
        if not self._redrawn:
            return super().shuffled(batch_size, seed=seed)
        pictures = clutter(self.digits, size=self._size, seed=seed)
        drawn = TensorSplit(pictures, self.targets, self.normalization, self.augmentation)
        drawn = drawn.balanced() if self._balanced else drawn
        return drawn.shuffled(batch_size, seed=seed)


def clutter(digits: Tensor, *, size: int, seed: int) -> Tensor:
    """Place each digit in a picture of its own, among pieces of others.

    Args:
        digits: uint8 [n, side, side, 1].
        size: side of a picture, in pixels.
        seed: random seed.

    Returns:
        uint8 [n, size, size, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    digits = digits[..., 0]
    count, whole, piece = len(digits), digits.shape[1], max(3, round(size * PIECE))
    pictures = torch.zeros(count, size, size, dtype=torch.uint8)
    for _ in range(PIECES):
        others = digits[torch.randint(count, (count,), generator=generator)]
        pieces = others[_square(count, whole, piece, generator)]
        _paste(pictures, pieces, _square(count, size, piece, generator))
    _paste(pictures, digits, _square(count, size, whole, generator))
    return pictures[..., None]


def _square(count: int, size: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a square of `side` pixels in each of `count` pictures, as indices that broadcast to [count, side, side]."""
    corners = torch.randint(size - side + 1, (2, count, 1), generator=generator)
    rows, columns = corners + torch.arange(side)  # [count, side]
    return torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]


def _paste(pictures: Tensor, squares: Tensor, where: tuple[Tensor, Tensor, Tensor]) -> None:
    """Put a square into each picture, in place; the brighter pixel stays."""
    pictures[where] = torch.maximum(pictures[where], squares)
