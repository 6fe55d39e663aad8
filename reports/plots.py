"""Draw what candidates are compared by, such as accuracy, against cost."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import EngFormatter, MaxNLocator

from lctprune.config.metric import is_lower_better
from lctprune.errors import ConfigError
from lctprune.measure.candidates import Candidate, Cost
from lctprune.measure.choice import not_faster
from lctprune.measure.units import COSTS, amount, latency_conditions
from lctprune.reports.figures import BEATEN, CHOSEN, FRONT, INK, MUTED, panels, percent_formatter, say_instead, style
from lctprune.reports.labels import Segment, label_points
from lctprune.reports.points import ParetoPoint, measured_costs, pareto_points

AXIS_LABELS = {
    "flops": "FLOPs per sample (1 FLOP = one multiply or one add)",
    "macs": "multiply-adds (MACs) per sample",
    "parameters": "parameters",
    "latency_ms": "median latency, batch {batch} (ms)\n{conditions}",
    "size_bytes": "size of parameters and buffers (bytes)",
}
UNDRAWN: tuple[Cost, ...] = ("parameters", "latency_ms", "size_bytes")  # limits that may have no panel
FARTHEST_LIMIT = 2.0  # times the greatest cost; showing a limit beyond it would squeeze the points into a corner
FREE_COST = 1.12  # right end of the axis, as a multiple of the greatest cost: room for labels
WIDEST, LEGEND_WIDTH = 26, 40  # characters in a line of a label, and of the legend
MOST_LABELS = 13  # with more candidates, those off the front have none
ROUND_STEPS = [1, 2, 2.5, 5, 10]  # between ticks


def plot_pareto(
    ax: Axes, candidates: Sequence[Candidate], cost: str, *, chosen: Candidate | None = None, limit: float | None = None
) -> Axes:
    """Draw the candidates' metric with its 95% interval against a cost.

    With more than `MOST_LABELS` candidates, only the front, the chosen one and the main network are named, and only
    they have bars.

    Args:
        ax: axes to draw on, in their final position in the figure, as labels are placed for it.
        candidates: measured candidates.
        cost: "flops", "macs", "parameters" or "latency_ms".
        chosen: candidate to highlight.
        limit: limit on the cost, in its unit; drawn as a line, with everything above it shaded.

    Returns:
        The axes that were given.

    Raises:
        ConfigError: there is no such cost.
    """
    points = pareto_points(candidates, cost)
    metric = candidates[0].metric if candidates else "accuracy"
    better = ", less is better" if is_lower_better(metric) else ""
    ax.set(xlabel=_cost_label(candidates, points, cost), ylabel=f"{metric} (bars: 95% interval{better})")
    if not points:
        say_instead(ax, "not measured")
        return ax
    _set_axes(ax, points, cost, limit)
    if not is_lower_better(metric):
        ax.yaxis.set_major_formatter(percent_formatter())
    chosen_exit = None if chosen is None else chosen.key
    named = [point for point in points if len(points) <= MOST_LABELS or _stands_out(point, chosen_exit)]
    lines = _draw_intervals(ax, named, chosen_exit) + _draw_front(ax, points, chosen_exit)
    _draw_others(ax, points, chosen_exit)
    if limit is not None:
        lines.append(_draw_limit(ax, cost, limit))
    _draw_legend(ax)
    labels = [_label(ax, point, chosen=point.exit == chosen_exit) for point in named]
    others = [(point.cost, point.score) for point in points if point not in named]
    label_points(ax, [(point.cost, point.score) for point in named], labels, segments=lines, others=others)
    return ax


def pareto_figure(
    candidates: Sequence[Candidate],
    *,
    chosen: Candidate | None = None,
    budget: Mapping[str, float] | None = None,
    title: str | None = None,
    costs: Sequence[str] | None = None,
) -> Figure:
    """Draw the candidates' metric against cost, one panel per cost, side by side.

    Args:
        candidates: measured candidates.
        chosen: candidate to highlight.
        budget: limits by "flops", "macs" (drawn as FLOPs: twice as many), "parameters" (named below the title) and
            "latency_ms".
        title: heading above the panels.
        costs: costs of the panels; by default flops and, where it was measured, latency_ms.

    Raises:
        ConfigError: there is no such cost.
    """
    budget = budget or {}
    if unknown := sorted(set(budget) - set(COSTS)):
        raise ConfigError(f"budget names {', '.join(unknown)}; it may name {', '.join(COSTS)}")
    costs = costs or measured_costs(candidates)
    limits = {**budget, **_flops_limit(budget)}
    # a limit that no panel can show is at least named
    undrawn = [amount(limits[cost], cost) for cost in UNDRAWN if cost in set(limits) - set(costs)]
    with style():
        figure, axes = panels(
            len(costs),
            title=title,
            subtitle=f"budget also: at most {' and '.join(undrawn)}" if undrawn else None,
            legend_lines=int(bool(chosen and set(limits) & set(costs) and not_faster(candidates))),
        )
        for ax, cost in zip(axes, costs, strict=True):
            plot_pareto(ax, candidates, cost, chosen=chosen, limit=limits.get(cost))
        for ax in axes[1:]:
            ax.set_ylabel("")  # the label of the first panel serves all
    return figure


def _stands_out(point: ParetoPoint, chosen_exit: int | str | None) -> bool:
    return point.on_front or point.exit == chosen_exit or point.is_main


def _flops_limit(budget: Mapping[str, float]) -> dict[str, float]:
    """Convert the limits on FLOPs and on MACs to one limit on FLOPs."""
    limits = [factor * budget[cost] for cost, factor in (("flops", 1), ("macs", 2)) if cost in budget]
    return {"flops": min(limits)} if limits else {}


def _cost_label(candidates: Sequence[Candidate], points: Sequence[ParetoPoint], cost: str) -> str:
    label = AXIS_LABELS[cost].format(
        batch=candidates[0].latency_batch if candidates else 1, conditions=latency_conditions(candidates)
    )
    if any(point.cost_low is not None for point in points):
        label += "; bars: p5 to p95"
    missing = [candidate.name for candidate in candidates if getattr(candidate, cost) is None]
    return label + (f"\nnot shown, as not measured: {', '.join(missing)}" if missing and points else "")


def _set_axes(ax: Axes, points: Sequence[ParetoPoint], cost: str, limit: float | None) -> None:
    ax.set_ylim(_around((value for point in points for value in (point.score, point.low, point.high)), least=0.01))
    costs = [value for point in points for value in (point.cost, point.cost_low, point.cost_high) if value is not None]
    shown = [limit] if limit is not None and limit <= FARTHEST_LIMIT * max(costs) else []
    ax.set_xlim(0, FREE_COST * max(costs + shown) or 1)  # from 0, whatever the cost, so that panels can be compared
    ax.xaxis.set_major_formatter("{x:g}" if cost == "latency_ms" else EngFormatter(sep=""))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=ROUND_STEPS))


def _around(values: Iterable[float | None], *, least: float) -> tuple[float, float]:
    known = [value for value in values if value is not None and math.isfinite(value)] or [0.0]  # an R2 may be nan
    half = 0.68 * max(max(known) - min(known), least)  # more than 1/2: room for labels
    middle = (min(known) + max(known)) / 2
    return middle - half, middle + half


def _draw_intervals(ax: Axes, named: Sequence[ParetoPoint], chosen_exit: int | str | None) -> list[Segment]:
    lines: list[Segment] = []
    for point in named:
        color = CHOSEN if point.exit == chosen_exit else FRONT if point.on_front else BEATEN
        drawn: list[Segment] = []
        if point.low is not None and point.high is not None:
            drawn.append(((point.cost, point.low), (point.cost, point.high)))
        if point.cost_low is not None and point.cost_high is not None:
            drawn.append(((point.cost_low, point.score), (point.cost_high, point.score)))
        for (x1, y1), (x2, y2) in drawn:
            ax.plot([x1, x2], [y1, y2], color=color, alpha=0.55, lw=1.5, solid_capstyle="butt", zorder=2)
        lines += drawn
    return lines


def _draw_front(ax: Axes, points: Sequence[ParetoPoint], chosen_exit: int | str | None) -> list[Segment]:
    """Draw the front as steps: under a limit between two candidates, the cheaper one is the best that fits."""
    front = [(point.cost, point.score) for point in points if point.on_front]
    costs, accuracies = [x for x, _ in front], [y for _, y in front]
    is_hidden = all(point.exit == chosen_exit for point in points if point.on_front)  # below the mark of the choice
    label = "_" if is_hidden else "Pareto front"
    ax.plot(costs, accuracies, "o-", ds="steps-post", color=FRONT, lw=1.8, ms=7, mec="white", zorder=3, label=label)
    return [
        line
        for (x1, y1), (x2, y2) in itertools.pairwise(front)
        for line in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)))
    ]


def _draw_others(ax: Axes, points: Sequence[ParetoPoint], chosen_exit: int | str | None) -> None:
    if beaten := [point for point in points if not point.on_front]:
        costs, accuracies = [point.cost for point in beaten], [point.score for point in beaten]
        ax.plot(costs, accuracies, "o", mfc="white", mec=BEATEN, mew=1.5, ms=6.5, label="not on the front")
    if slow := [point for point in points if point.not_faster]:
        costs, scores = [point.cost for point in slow], [point.score for point in slow]
        ax.plot(costs, scores, "x", color=INK, ms=9, mew=1.2, zorder=5, label="fewer FLOPs or bits, not faster")
    for point in points:
        if point.exit == chosen_exit:
            label = textwrap.fill(f"chosen: {point.name}", LEGEND_WIDTH)
            ax.plot([point.cost], [point.score], "D", color=CHOSEN, mec="white", ms=9.5, zorder=4, label=label)


def _draw_limit(ax: Axes, cost: str, limit: float) -> Segment:
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    elsewhere = "" if limit <= right else " (off the axis)"
    label = f"budget: at most {amount(limit, cost)}{elsewhere}"
    ax.axvline(limit, color=INK, lw=1.3, ls=(0, (4, 2)), zorder=1.5, label=label)
    ax.axvspan(limit, max(right, limit), color=BEATEN, alpha=0.14, lw=0, zorder=0)
    ax.set_xlim(left, right)
    return (limit, low), (limit, high)


def _draw_legend(ax: Axes) -> None:
    # above the panel: inside it, no corner is free of points for certain
    legend = ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderaxespad=0.2, columnspacing=1.4, handlelength=1.6
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _label(ax: Axes, point: ParetoPoint, *, chosen: bool) -> Annotation:
    return ax.annotate(
        textwrap.fill(point.name, WIDEST),
        (point.cost, point.score),
        (0, 0),
        textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.7, "shrinkA": 0, "shrinkB": 5},
        ha="center",
        va="center",
        fontsize=9,
        weight="bold" if chosen else "normal",
        color=CHOSEN if chosen else INK,
        zorder=5,
        parse_math=False,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],  # readable where it crosses a line
    )
