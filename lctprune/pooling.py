"""Pool a sequence over its steps: for critics and for sequence models."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from lctprune.errors import ConfigError

POOLS = ("mean", "last")


def valid_steps(x: Tensor) -> Tensor:
    """Which steps are not padding: [batch, time, features] -> bool [batch, time, 1]."""
    return (x != 0).any(-1, keepdim=True)


def pooled(x: Tensor, valid: Tensor, kind: str) -> Tensor:
    """The mean of the valid steps, or the last one; zeros where a sequence has none.

    Args:
        x: [batch, time, features].
        valid: [batch, time, 1].
        kind: "mean" or "last".

    Returns:
        [batch, features].
    """
    if kind == "mean":
        return x.masked_fill(~valid, 0).sum(1) / valid.sum(1).clamp(min=1)
    is_last = valid & (valid.cumsum(1) == valid.sum(1, keepdim=True))  # [batch, time, 1]
    return x.masked_fill(~is_last, 0).sum(1)


class Pooling(nn.Module):
    """From a sequence to a vector: [batch, time, features] -> [batch, features]."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = one_of(POOLS, kind, "pool")

    def forward(self, x: Tensor) -> Tensor:
        return pooled(x, valid_steps(x), self.kind)


class NormalizedPooling(nn.Module):
    """Layer normalisation, then pooling. One module, because the normalisation makes padding its bias."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = one_of(POOLS, kind, "pool")
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:  # [batch, time, width] -> [batch, width]
        return pooled(self.norm(x), valid_steps(x), self.kind)


def one_of(known: Collection[str], value: str, name: str) -> str:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
    return value
