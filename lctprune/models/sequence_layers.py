"""Layers of sequence networks: embeddings, recurrent and transformer layers.

A sequence is one tensor, [batch, time, features]. A step whose features are all exactly zero is padding, and padding
comes last, so that one tensor carries a sequence and its length from layer to layer. Every layer finds the padding in
its own input and returns zeros there. (If dropout happens to zero all features of a step, that step becomes padding,
too: at a width of 16 or more this happens to less than one step in 10^11 with the default settings.)

No shape is turned into a Python number and nothing branches on data, so that each network can be traced and cut.
"""

from __future__ import annotations

import math

from torch import Tensor, cat, nn
from torch.nn import functional

from lctprune.errors import ConfigError
from lctprune.pooling import one_of, valid_steps

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
LONGEST_WAVELENGTH = 10_000  # base of the positions' wavelengths (Vaswani et al. 2017, arXiv 1706.03762, section 3.5)


class Positions(nn.Module):
    """Adds to each valid step the sines and cosines of its position, counted from 1, for sequences of any length."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        exponents = [index / math.ceil(width / 2) for index in range(math.ceil(width / 2))]
        self.register_buffer("frequencies", Tensor([LONGEST_WAVELENGTH**-exponent for exponent in exponents]))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Add positions to the valid steps: x [batch, time, width], valid [batch, time, 1]."""
        angles = valid.cumsum(1) * self.frequencies  # [batch, time, ceil(width / 2)]
        return x + cat([angles.sin(), angles.cos()], -1)[..., : self.width].to(x.dtype)


class TokenEmbedding(nn.Module):
    """Embeds token ids, int64 [batch, time] with 0 for padding, as [batch, time, width]."""

    def __init__(self, vocabulary: int, width: int, dropout: float, positions: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = Positions(width) if positions else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed ids and their positions; padding becomes zeros."""
        valid = (ids != 0).unsqueeze(-1)
        x: Tensor = self.tokens(ids)
        if self.positions is not None:
            x = self.positions(x, valid)
        x = self.dropout(x)
        return x.masked_fill(~valid, 0)


class StepEmbedding(nn.Module):
    """Embeds steps of numbers by a linear layer: [batch, time, features] -> [batch, time, width]."""

    def __init__(self, features: int, width: int, dropout: float, positions: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(features, width)
        self.positions = Positions(width) if positions else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, steps: Tensor) -> Tensor:
        """Embed steps and their positions; padding becomes zeros."""
        valid = valid_steps(steps)
        x: Tensor = self.linear(steps)
        if self.positions is not None:
            x = self.positions(x, valid)
        x = self.dropout(x)
        return x.masked_fill(~valid, 0)


class RecurrentLayer(nn.Module):
    """One layer of LSTM or GRU with dropout: [batch, time, input_size] -> [batch, time, width].

    It runs forward in time only, so that no valid step sees the padding after it.
    """

    def __init__(self, cell: str, input_size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.cell = CELLS[one_of(CELLS, cell, "cell")](input_size, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer over all steps; padding becomes zeros."""
        valid = valid_steps(x)
        x = self.dropout(self.cell(x)[0])
        return x.masked_fill(~valid, 0)


class TransformerLayer(nn.Module):
    """An encoder layer with normalisation before each part (Xiong et al. 2020, arXiv 2002.04745); keeps the width.

    Dropout applies to what is added to the residual stream and to the hidden units. The attention weights have none: it
    would have to be a functional dropout, which a trace freezes in one mode.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        at_least(1, heads=heads)
        if width % heads:
            raise ConfigError(f"width is {width}, not a multiple of {heads} heads; change one of them")
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # [batch, time, width] -> [batch, time, width]
        """Run attention and the feed-forward part; padding becomes zeros."""
        valid = valid_steps(x)
        x = x + self.dropout(self._attended(self.norm1(x), valid))
        hidden = self.dropout(functional.gelu(self.up(self.norm2(x))))
        x = x + self.dropout(self.down(hidden))
        return x.masked_fill(~valid, 0)

    def _attended(self, x: Tensor, valid: Tensor) -> Tensor:
        # a sequence without a valid step attends to all its steps, as a softmax over nothing is not a number
        keys = (valid | ~valid.any(1, keepdim=True)).transpose(1, 2).unsqueeze(1)  # [batch, 1, 1, time]
        qkv: Tensor = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [batch, time, 3, heads, width / heads]
        query, key, value = qkv.transpose(1, 3).unbind(2)  # [batch, heads, time, width / heads] each
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        projected: Tensor = self.out(attended.transpose(1, 2).flatten(-2))
        return projected


def at_least(least: int, **values: int) -> None:
    """Require each value to be at least `least`.

    Raises:
        ConfigError: a value is smaller.
    """
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}")
