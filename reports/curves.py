"""Compute the curves of training, then draw them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lctprune.config.metric import SCORE_COLUMNS
from lctprune.errors import ConfigError
from lctprune.reports.figures import INK, panels, percent_formatter, say_instead, style

QUANTITIES = {
    "val_accuracy": "validation {metric}",
    "train_loss": "training loss, mean per sample",
    "val_loss": "validation loss, mean per sample",
    "val_balanced_accuracy": "validation balanced accuracy",
    "val_macro_f1": "validation macro F1",
    "val_map": "validation mAP",
    "val_r2": "validation R2",
    "cosine": "cosine of local and true gradient",
    "gradient_norm": "norm of the local gradient",
    "gap": "mean |loss - main network's loss|",
}
DIAGNOSTICS = ("cosine", "gap", "gradient_norm")  # measured only in runs that were trained with diagnostics
LEGEND_WIDTH = 1.25  # inches
MOST_MARKED_EPOCHS = 12  # with more, markers would hide the curves


def training_curves(metrics: pandas.DataFrame, quantity: str) -> pandas.DataFrame:
    """Return the data of one panel of the training figure: a row per epoch, a column per exit, named by its number.

    Args:
        metrics: table from `metrics_frame`.
        quantity: "val_accuracy" (0 to 1), "train_loss" or "val_loss"; with another metric also its column, such as
            "val_macro_f1"; with diagnostics also "cosine" (-1 to 1),
            "gradient_norm" or "gap". The result has no columns if the run did not measure it.

    Raises:
        ConfigError: there is no such quantity.
    """
    if quantity not in QUANTITIES:
        raise ConfigError(f"quantity is {quantity!r}; it must be one of {', '.join(QUANTITIES)}")
    if metrics.empty:
        return pandas.DataFrame()
    by_epoch = metrics.set_index("epoch")
    matches = [re.fullmatch(rf"exit(\d+)_{quantity}", str(name)) for name in by_epoch.columns]
    exits = {match[0]: int(match[1]) for match in matches if match}
    return by_epoch[list(exits)].set_axis(list(exits.values()), axis="columns")


def training_figure(
    metrics: pandas.DataFrame,
    *,
    quantities: Sequence[str] = ("val_accuracy", "train_loss"),
    metric: str = "accuracy",
) -> Figure:
    """Draw the curves of every exit by epoch, one panel per quantity.

    Args:
        metrics: table from `metrics_frame`.
        quantities: quantities of the panels; `training_curves` lists them.
        metric: name of the quantity "val_accuracy": accuracy, or in a run of an earlier version R2.

    Raises:
        ConfigError: there is no such quantity.
    """
    with style():
        figure, axes = panels(len(quantities), right=LEGEND_WIDTH)
        for ax, quantity in zip(axes, quantities, strict=True):
            _draw_curves(ax, training_curves(metrics, quantity))
            ax.set_ylabel(QUANTITIES[quantity].format(metric=metric))
            if quantity.startswith("val_") and quantity != "val_loss":
                ax.yaxis.set_major_formatter(percent_formatter())
        if axes[-1].lines:
            axes[-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0, reverse=True)
    return figure


def score_quantity(metrics: pandas.DataFrame, metric: str) -> str:
    """Return the quantity that holds a run's metric.

    Args:
        metrics: table from `metrics_frame`.
        metric: name of the metric.
    """
    quantity = SCORE_COLUMNS.get(metric, "val_accuracy")
    return "val_accuracy" if training_curves(metrics, quantity).empty else quantity


def _draw_curves(ax: Axes, curves: pandas.DataFrame) -> None:
    ax.set_xlabel("epoch")
    if curves.empty:
        say_instead(ax, "not measured" if len(curves) else "no epoch was finished")
        return
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    colors = matplotlib.colormaps["viridis"]  # the deeper the darker; colour-blind readers can tell it apart
    marker = "o" if len(curves) <= MOST_MARKED_EPOCHS else ""
    epochs, last = curves.index.to_numpy(), curves.shape[1] - 1
    for position, exit in enumerate(curves.columns):
        main = position == last
        ax.plot(
            epochs,
            curves[exit].to_numpy(),
            marker=marker,
            markersize=3.5,
            linewidth=2.2 if main else 1.6,
            color=INK if main else colors(0.8 - 0.5 * position / max(1, last - 1)),
            label="main network" if main else f"exit {exit}",
        )
