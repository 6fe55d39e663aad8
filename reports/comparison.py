"""Draw and tabulate the candidates of several runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from lctprune.config.metric import is_lower_better
from lctprune.measure.candidates import Candidate
from lctprune.measure.comparison import compared
from lctprune.measure.units import COSTS, latency_conditions
from lctprune.reports.figures import INK, panels, percent_formatter, say_instead, style
from lctprune.reports.plots import AXIS_LABELS
from lctprune.reports.points import measured_costs, pareto_points
from lctprune.reports.tables import candidates_frame

# Okabe and Ito's palette without yellow, which is faint on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")  # 9 and 7 have no common factor: 63 runs look different


def comparison_frame(runs: Mapping[str, Sequence[Candidate]]) -> pandas.DataFrame:
    """Return one row per candidate of several runs: its run, the columns of `candidates_frame`, and the comparison.

    Args:
        runs: candidates by the name of the run.

    Returns:
        Beside the columns of `candidates_frame`: `run`; `on_front`, whether it is on the common front of metric and
        FLOPs; `p_best`, the p-value of McNemar's exact test against the best of all, nan where there is none.

    Raises:
        ConfigError: the runs' candidates are compared by different metrics.
    """
    entries = compared(runs)
    frame = candidates_frame([each.candidate for each in entries])
    frame.insert(0, "run", pandas.Series([each.run for each in entries], dtype="object"))
    frame["on_front"] = [each.on_front for each in entries]
    frame["p_best"] = [math.nan if each.against_best is None else each.against_best.p_value for each in entries]
    return frame


def plot_comparison(ax: Axes, runs: Mapping[str, Sequence[Candidate]], cost: str) -> Axes:
    """Draw the metric of several runs' candidates against a cost, each run with its own front.

    Args:
        ax: axes to draw on.
        runs: candidates by the name of the run.
        cost: "flops", "macs", "parameters", "latency_ms" or "size_bytes".

    Returns:
        The axes that were given.

    Raises:
        ConfigError: there is no such cost, or the runs' candidates are compared by different metrics.
    """
    entries = compared(runs)
    metric = entries[0].candidate.metric
    batches = sorted({each.candidate.latency_batch for each in entries})
    conditions = dict.fromkeys(latency_conditions([each.candidate]) for each in entries)
    label = AXIS_LABELS[cost if cost in COSTS else "flops"].format(
        batch=" and ".join(map(str, batches)), conditions=" and ".join(conditions)
    )
    ax.set(xlabel=label, ylabel=f"{metric} (bars: 95% interval)")
    known = {name: pareto_points(candidates, cost) for name, candidates in runs.items()}
    if not any(known.values()):
        say_instead(ax, "not measured")
        return ax
    for index, (name, points) in enumerate(known.items()):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        for point in points:
            if point.low is not None and point.high is not None:
                ax.plot([point.cost] * 2, [point.low, point.high], color=color, alpha=0.35, lw=1.3, zorder=2)
        xs, ys = [point.cost for point in points], [point.score for point in points]
        ax.plot(xs, ys, marker, color=color, mec="white", ms=7, zorder=3, label=name)
        front = [point for point in points if point.on_front]
        ax.plot([point.cost for point in front], [point.score for point in front], color=color, ds="steps-post", lw=1.5)
    slow = [point for points in known.values() for point in points if point.not_faster]
    if slow:
        xs, ys = [point.cost for point in slow], [point.score for point in slow]
        ax.plot(xs, ys, "x", color=INK, ms=9, mew=1.2, zorder=5, label="fewer FLOPs or bits, not faster")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter("{x:g}" if cost == "latency_ms" else EngFormatter(sep=""))
    if not is_lower_better(metric):
        ax.yaxis.set_major_formatter(percent_formatter())
    return ax


def comparison_figure(runs: Mapping[str, Sequence[Candidate]], *, costs: Sequence[str] | None = None) -> Figure:
    """Draw the candidates of several runs, one panel per cost, side by side, with one legend.

    Args:
        runs: candidates by the name of the run.
        costs: costs of the panels; by default flops and, where it was measured, latency_ms.

    Raises:
        ConfigError: there is no such cost, or the runs' candidates are compared by different metrics.
    """
    everything = [each for candidates in runs.values() for each in candidates]
    costs = costs or measured_costs(everything)
    with style():
        figure, axes = panels(len(costs))
        for ax, cost in zip(axes, costs, strict=True):
            plot_comparison(ax, runs, cost)
        for ax in axes[1:]:
            ax.set_ylabel("")
        legend = axes[0].legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=min(4, len(runs) + 1))
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure
