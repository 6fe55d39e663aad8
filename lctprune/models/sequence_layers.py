"""Layers of sequence networks: embeddings, recurrent and transformer layers, pooling.

A sequence is one tensor, [batch, time, features]. A step whose features are all exactly zero is padding, and padding
stands at the end; so one tensor carries a sequence and its length from layer to layer. Every layer finds the padding in
its own input and gives padding where it got some. (Dropout that happens to silence all features of a step makes it
padding, too: at a width of 16 or more that is rarer than one step in 10^11 with the default settings.)

No shape becomes a number here, and nothing branches on data, so that each network can be traced and cut.
"""

from __future__ import annotations

import math

from torch import Tensor, cat, nn
from torch.nn import functional

from lctprune.errors import ConfigError
from lctprune.pooling import one_of, valid_steps

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
LONGEST_WAVELENGTH = 10_000  # of positions, in steps and radians (Vaswani et al. 2017, arXiv 1706.03762, section 3.5)


class Positions(nn.Module):
    """Adds to each valid step the sines and cosines of its position, which starts at 1. Of any length."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        exponents = [index / math.ceil(width / 2) for index in range(math.ceil(width / 2))]
        self.register_buffer("frequencies", Tensor([LONGEST_WAVELENGTH**-exponent for exponent in exponents]))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:  # [batch, time, width], [batch, time, 1]
        angles = valid.cumsum(1) * self.frequencies  # [batch, time, ceil(width / 2)]
        return x + cat([angles.sin(), angles.cos()], -1)[..., : self.width].to(x.dtype)


class TokenEmbedding(nn.Module):
    """Token ids, int64 [batch, time], where 0 is padding -> [batch, time, width]."""

    def __init__(self, vocabulary: int, width: int, dropout: float, positions: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = Positions(width) if positions else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        valid = (ids != 0).unsqueeze(-1)
        x: Tensor = self.tokens(ids)
        if self.positions is not None:
            x = self.positions(x, valid)
        x = self.dropout(x)
        return x.masked_fill(~valid, 0)


class StepEmbedding(nn.Module):
    """The linear counterpart for numbers: [batch, time, features] -> [batch, time, width]."""

    def __init__(self, features: int, width: int, dropout: float, positions: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(features, width)
        self.positions = Positions(width) if positions else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, steps: Tensor) -> Tensor:
        valid = valid_steps(steps)
        x: Tensor = self.linear(steps)
        if self.positions is not None:
            x = self.positions(x, valid)
        x = self.dropout(x)
        return x.masked_fill(~valid, 0)


class RecurrentLayer(nn.Module):
    """One layer of LSTM or GRU and dropout: [batch, time, input_size] -> [batch, time, width].

    It runs forward only, so that no valid step sees the padding behind it.
    """

    def __init__(self, cell: str, input_size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.cell = CELLS[one_of(CELLS, cell, "cell")](input_size, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        valid = valid_steps(x)
        x = self.dropout(self.cell(x)[0])
        return x.masked_fill(~valid, 0)


class TransformerLayer(nn.Module):
    """An encoder layer, normalised before each part (Xiong et al. 2020, arXiv 2002.04745); width stays as it is.

    Dropout is on what is added to the residual stream and on the hidden units. The attention itself has none: it would
    have to be a functional one, which a trace freezes in one mode.
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
        valid = valid_steps(x)
        x = x + self.dropout(self._attended(self.norm1(x), valid))
        hidden = self.dropout(functional.gelu(self.up(self.norm2(x))))
        x = x + self.dropout(self.down(hidden))
        return x.masked_fill(~valid, 0)

    def _attended(self, x: Tensor, valid: Tensor) -> Tensor:
        # where a sequence has no valid step, all are attended to: a softmax over nothing is not a number
        keys = (valid | ~valid.any(1, keepdim=True)).transpose(1, 2).unsqueeze(1)  # [batch, 1, 1, time]
        qkv: Tensor = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [batch, time, 3, heads, width / heads]
        query, key, value = qkv.transpose(1, 3).unbind(2)  # [batch, heads, time, width / heads] each
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        projected: Tensor = self.out(attended.transpose(1, 2).flatten(-2))
        return projected


def at_least(least: int, **values: int) -> None:
    """Refuse a value that is too small.

    Raises:
        ConfigError: one is.
    """
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}")
