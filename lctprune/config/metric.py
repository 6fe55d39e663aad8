"""The metrics that exits can be compared by, and their names."""

from __future__ import annotations

from lctprune.errors import ConfigError

AUTO = "auto"
METRIC_NAMES = {  # by the setting, the name that tables, plots and files show
    "accuracy": "accuracy",
    "balanced-accuracy": "balanced accuracy",
    "macro-f1": "macro F1",
    "map": "mAP",
    "r2": "R2",
    "loss": "loss",
}

SCORE_COLUMNS = {name: f"val_{name.lower().replace(' ', '_')}" for name in METRIC_NAMES.values()}  # of metrics.csv


def parse_metric(text: str) -> str:
    """Return a metric's setting, in lower case and with hyphens.

    Args:
        text: setting, in any case, with hyphens, underscores or spaces; or "auto".

    Raises:
        ConfigError: there is no such metric.
    """
    setting = "-".join(str(text).lower().replace("_", " ").replace("-", " ").split())
    if setting not in (AUTO, *METRIC_NAMES):
        raise ConfigError(f"metric is {text!r}; it must be one of {', '.join((AUTO, *METRIC_NAMES))}")
    return setting


def is_lower_better(name: str) -> bool:
    """Tell whether a better network has less of a metric, by its shown name."""
    return name == METRIC_NAMES["loss"]


def score_text(value: float | None, name: str, decimals: int = 1) -> str:
    """Write the value of a metric: in percent, or for a loss and R2 as a number.

    Args:
        value: value of the metric; None or nan where it is not known.
        name: shown name of the metric.
        decimals: decimals of a percentage.
    """
    if value is None or value != value:
        return "-"
    if is_lower_better(name):
        return f"{value:.4g}"
    return f"{value:.{decimals + 2}f}" if name == METRIC_NAMES["r2"] else f"{value:.{decimals}%}"


def interval_text(low: float, high: float, name: str) -> str:
    """Write an interval of a metric's values, as in 81.2-85.0%."""
    if is_lower_better(name):
        return f"{low:.4g}-{high:.4g}"
    if name == METRIC_NAMES["r2"]:
        return f"{low:.3f} to {high:.3f}"  # which may be negative
    return f"{100 * low:.1f}-{high:.1%}"


def best_text(name: str) -> str:
    """Return the superlative that fits a metric."""
    return {"accuracy": "the most accurate", "loss": "the one of lowest loss"}.get(name, f"the best by {name}")
