"""Compute the curves of training, then draw them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lctprune.config.metric import SCORE_COLUMNS
from lctprune.errors import ConfigError
from lctprune.measure.candidates import MAIN
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
LABEL_GAP = 12  # points between names at the ends of curves
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
    names: Mapping[int, str] | None = None,
) -> Figure:
    """Draw the curves of every exit by epoch, one panel per quantity.

    Args:
        metrics: table from `metrics_frame`.
        quantities: quantities of the panels; `training_curves` lists them.
        metric: name of the quantity "val_accuracy": accuracy, or in a run of an earlier version R2.
        names: names of the exits by their numbers; by default "exit 0" and so on, and "main network" for the last.

    Raises:
        ConfigError: there is no such quantity.
    """
    with style():
        figure, axes = panels(len(quantities))
        for ax, quantity in zip(axes, quantities, strict=True):
            _draw_curves(ax, training_curves(metrics, quantity), names or {})
            ax.set_ylabel(QUANTITIES[quantity].format(metric=metric))
            if quantity.startswith("val_") and quantity != "val_loss":
                ax.yaxis.set_major_formatter(percent_formatter())
    return figure


def score_quantity(metrics: pandas.DataFrame, metric: str) -> str:
    """Return the quantity that holds a run's metric.

    Args:
        metrics: table from `metrics_frame`.
        metric: name of the metric.
    """
    quantity = SCORE_COLUMNS.get(metric, "val_accuracy")
    return "val_accuracy" if training_curves(metrics, quantity).empty else quantity


def _draw_curves(ax: Axes, curves: pandas.DataFrame, names: Mapping[int, str]) -> None:
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
            label=names.get(int(exit), MAIN if main else f"exit {exit}"),
        )
    _name_ends(ax)


def _name_ends(ax: Axes) -> None:
    """Write the name of each curve beside its end, and names apart from each other; make room on the right."""
    ends = []
    for line in ax.lines:
        points: list[list[float]] = numpy.asarray(line.get_xydata()).tolist()
        if known := [(x, y) for x, y in points if math.isfinite(y)]:
            ends.append((*known[-1], line))
    labels = [
        ax.annotate(
            str(line.get_label()),
            (x, y),
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=line.get_color(),
            parse_math=False,
        )
        for x, y, line in ends
    ]
    if not labels:
        return
    scale = 72 / ax.figure.dpi
    widest = max(label.get_window_extent().width for label in labels) + 16 / scale
    left, right = ax.get_xlim()
    width = ax.get_window_extent().width
    ax.set_xlim(left, right + (right - left) * widest / max(width - widest, width / 4))
    heights = [ax.transData.transform((x, y))[1] * scale for x, y, _ in ends]
    for label, height, place in zip(labels, heights, spread(heights, LABEL_GAP), strict=True):
        label.xyann = (8, place - height)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart so that each is at least a gap above the next lower one, about as much up as down.

    Args:
        places: places, in any order.
        gap: least distance.
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    result = list(places)
    for below, above in itertools.pairwise(order):
        result[above] = max(result[above], result[below] + gap)
    excess = (result[order[-1]] - places[order[-1]]) / 2 if order else 0.0
    return [place - excess for place in result]
