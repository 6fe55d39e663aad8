"""Write fractions in percent, alike in plots and on the page."""

from __future__ import annotations


def percent(fraction: float, decimals: int = 1) -> str:
    """Write a fraction, 0 to 1, in percent."""
    return f"{100 * fraction:.{decimals}f}%"


def percent_interval(low: float, high: float) -> str:
    """Write an interval of fractions, 0 to 1, in percent."""
    return f"{100 * low:.1f} to {100 * high:.1f}%"


def begun(text: str) -> str:
    """Write a metric's name as it begins a sentence."""
    return text if text == "mAP" else text[0].upper() + text[1:]
