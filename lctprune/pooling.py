"""Pool a sequence over its steps: for critics and for sequence models."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from lctprune.errors import ConfigError

POOLS = ("mean", "last")


def valid_steps(x: Tensor) -> Tensor:
    """Tell which steps are not padding: [batch, time, features] -> bool [batch, time, 1]."""
    return (x != 0).any(-1, keepdim=True)


def pooled(x: Tensor, valid: Tensor, kind: str) -> Tensor:
    """Average the valid steps, or take the last one; zeros where a sequence has none.

    Args:
        x: sequences, [batch, time, features].
        valid: mask of the steps that are not padding, [batch, time, 1].
        kind: "mean" or "last".

    Returns:
        [batch, features].
    """
    if kind == "mean":
        return x.masked_fill(~valid, 0).sum(1) / valid.sum(1).clamp(min=1)
    is_last = valid & (valid.cumsum(1) == valid.sum(1, keepdim=True))  # [batch, time, 1]
    return x.masked_fill(~is_last, 0).sum(1)


class Pooling(nn.Module):
    """Pooling of sequences that leaves out padding."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = one_of(POOLS, kind, "pool")

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, time, features] to [batch, features]."""
        return pooled(x, valid_steps(x), self.kind)


class NormalizedPooling(nn.Module):
    """Layer normalisation, then pooling: in one module, because normalised padding is no longer zero."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = one_of(POOLS, kind, "pool")
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, time, width] to [batch, width]."""
        return pooled(self.norm(x), valid_steps(x), self.kind)


def one_of(known: Collection[str], value: str, name: str) -> str:
    """Return `value` if it is known, else raise a ConfigError that lists what is."""
    if value not in known:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
    return value
