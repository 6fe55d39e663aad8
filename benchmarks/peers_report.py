"""What `peers.py` measures, the choice on validation, and its table and picture of test accuracy."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import mean_and_deviation
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from lctprune.reports.figures import BEATEN, CHOSEN, FRONT, NO_METADATA, TIGHT, percent_formatter, style

OURS, ADDED, TUNED = "lctprune", "lctprune, added", "lctprune, fine-tuned"
WHOLE, EACH, EPOCHS = "compute in all", "compute each", "epochs each"
COLORS = {
    OURS: FRONT,
    ADDED: "#56B4E9",
    TUNED: "#000000",
    "Torch-Pruning": CHOSEN,
    "truncated": "#009E73",
    "narrower": "#E69F00",
    "joint": "#CC79A7",
}
MARKERS = {OURS: "o", ADDED: ".", TUNED: "*", "Torch-Pruning": "s", "truncated": "^", "narrower": "v", "joint": "D"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One network of one seed: a row of the CSV file.

    Attributes:
        method: way in which it was made.
        name: name among the networks of that method.
        budget: what equals that of the local critic run: the compute of all networks of the method together (WHOLE), or
            of each of them (EACH), or the epochs of each (EPOCHS).
        seed: seed of the run.
        macs: multiply-adds for one sample.
        epochs: epochs of the training or fine-tuning that ended with it.
        compute: compute of everything that was trained to have it; 1 is all of the local critic run.
        val, test: accuracy, 0 to 1.
        seconds: time of that training or fine-tuning.
    """

    method: str
    name: str
    budget: str
    seed: int
    macs: int
    epochs: int
    compute: float
    val: float
    test: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network, over all seeds.

    `val` and `test` hold an accuracy per seed. `chosen`: no other network of its method and budget is cheaper and at
    least as good on validation.
    """

    method: str
    name: str
    budget: str
    macs: float
    epochs: float
    compute: float
    val: list[float]
    test: list[float]
    chosen: bool = False


def read_measured(paths: Iterable[Path]) -> list[Measured]:
    """Read CSV files that this script wrote."""
    rows = []
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                rows.append(
                    Measured(
                        method=row["method"],
                        name=row["name"],
                        budget=row["budget"],
                        seed=int(row["seed"]),
                        macs=int(row["macs"]),
                        epochs=int(row["epochs"]),
                        compute=float(row["compute"]),
                        val=float(row["val"]),
                        test=float(row["test"]),
                        seconds=float(row["seconds"]),
                    )
                )
    return rows


def summarised(rows: Sequence[Measured]) -> list[Point]:
    """Gather rows over seeds, and choose each method's front on validation; in the order of methods and MACs."""
    groups: dict[tuple[str, str, str], list[Measured]] = {}
    for row in rows:
        groups.setdefault((row.method, row.budget, row.name), []).append(row)
    points = [
        Point(
            method=method,
            name=name,
            budget=budget,
            macs=statistics.mean(row.macs for row in same),
            epochs=statistics.mean(row.epochs for row in same),
            compute=statistics.mean(row.compute for row in same),
            val=[row.val for row in same],
            test=[row.test for row in same],
        )
        for (method, budget, name), same in groups.items()
    ]
    rank = {
        method: index for index, method in enumerate([*COLORS, *sorted({row.method for row in rows} - set(COLORS))])
    }
    points.sort(key=lambda point: (rank[point.method], point.budget, point.macs))
    return [dataclasses.replace(point, chosen=not any(_beats(other, point) for other in points)) for point in points]


def print_table(points: Sequence[Point]) -> None:
    """Print all networks, chosen or not."""
    head = f"\n  {'method':20} {'network':26} {'':14} {'MACs':>7} {'epochs':>6} {'compute':>7}"
    print(f"{head}  {'val (chooses)':14} {'test':14} n  front")
    for point in points:
        print(
            f"  {point.method:20} {point.name:26} {point.budget:14} {point.macs / 1e6:6.1f}M {point.epochs:6.1f} "
            f"{point.compute:7.2f}  {mean_and_deviation(point.val):14} {mean_and_deviation(point.test):14} "
            f"{len(point.test)}  {'*' if point.chosen else ''}"
        )


def print_comparison(points: Sequence[Point]) -> None:
    """Compare each chosen exit with the best network (on validation) that every other method has for no more MACs."""
    print(f"\n  test accuracy of {OURS} less that of the peer's best (on validation) with no more MACs, in points")
    for own in (point for point in points if point.method == OURS and point.chosen):
        for method, budget in dict.fromkeys((point.method, point.budget) for point in points if point.method != OURS):
            peers = [
                each for each in points if (each.method, each.budget) == (method, budget) and each.macs <= own.macs
            ]
            if peers:
                best = max(peers, key=lambda point: statistics.mean(point.val))
                difference = 100 * (statistics.mean(own.test) - statistics.mean(best.test))
                print(f"  {own.name:14} {own.macs / 1e6:6.1f}M  {difference:+5.1f}  {method}, {budget}: {best.name}")


def draw(points: Sequence[Point], path: Path, subtitle: str) -> None:
    """Draw test accuracy against MACs, with the fronts that validation chose, in the format of the path's ending.

    The left half shows methods whose whole front may cost as much as the run, the right half those each of whose
    networks may.
    """
    titles = {
        WHOLE: "all networks together: the compute of the run",
        EACH: "each network alone: the compute of the run",
    }
    with style():
        figure = Figure(figsize=(11.0, 4.6), facecolor="white")
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for ax, (budget, title) in zip(axes, titles.items(), strict=True):
            shown = [point for point in points if point.budget == budget or point.method == OURS]
            for _, same in itertools.groupby(shown, key=lambda point: point.method):
                _draw_method(ax, list(same))
            ax.set_title(title, loc="left", fontsize=10)
            ax.set_xlabel("multiply-adds (MACs) per sample")
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes[0].set_ylabel("test accuracy (bars: deviation over seeds)")
        axes[0].yaxis.set_major_formatter(percent_formatter())
        handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        axes[1].legend(handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(1.01, 1.0))
        figure.suptitle("Lines: each method's front, chosen on validation; hollow: not on it", weight="bold")
        figure.text(0.5, 0.905, subtitle, fontsize=8, ha="center", parse_math=False)
        figure.subplots_adjust(top=0.82, wspace=0.06)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata=NO_METADATA if path.suffix == ".svg" else None, dpi=150, **TIGHT)


def _draw_method(ax: Axes, points: Sequence[Point]) -> None:
    method = points[0].method
    color, marker = COLORS.get(method, BEATEN), MARKERS.get(method, "P")
    for chosen in (False, True):
        drawn = [point for point in points if point.chosen == chosen]
        if not drawn:
            continue
        means = [statistics.mean(point.test) for point in drawn]
        errors = [statistics.stdev(point.test) if len(point.test) > 1 else 0.0 for point in drawn]
        ax.errorbar(
            [point.macs for point in drawn],
            means,
            errors if any(errors) else None,
            fmt=marker,
            ls="-" if chosen else "",
            color=color,
            mfc=color if chosen else "white",
            ms=6.5,
            lw=1.6,
            capsize=2,
            zorder=4 if method == OURS else 3,
            label=method if chosen else None,
        )


def _beats(one: Point, other: Point) -> bool:
    """Tell whether, of one method and budget, `one` is no dearer and no worse on validation, and better in one."""
    if (one.method, one.budget) != (other.method, other.budget):
        return False
    val, other_val = statistics.mean(one.val), statistics.mean(other.val)
    return one.macs <= other.macs and val >= other_val and (one.macs < other.macs or val > other_val)
