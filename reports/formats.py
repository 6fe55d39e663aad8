"""Shares as people read them, the same in plots and on the page."""

from __future__ import annotations


def percent(share: float, decimals: int = 1) -> str:
    """A share, 0 to 1, in percent."""
    return f"{100 * share:.{decimals}f}%"


def percent_interval(low: float, high: float) -> str:
    """An interval of shares, 0 to 1, in percent."""
    return f"{100 * low:.1f} to {100 * high:.1f}%"
