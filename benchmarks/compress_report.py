"""Table, CSV and picture of what `compress.py` measured; what validation chose among the options of each way."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import write_csv

WHOLE = "compress"
COLORS = {
    WHOLE: "#D55E00",
    "torch-pruning": "#555555",
    "scratch": "#009E73",
    "plain head": "#E69F00",
    "published": "#000000",
    "compress, exits": "#56B4E9",
    "compress, densified": "#0072B2",
    "compress, narrowed": "#CC79A7",
    "compress, fine-tuned": "#999999",
    "compress, on the way": "#D55E00",
}
COLUMNS = ("budget", "way", "variant", "seed", "network", "flops", "parameters", "val_accuracy", "test_accuracy")


class Chosen(NamedTuple):
    """The best of a way under a budget: one row per seed, with the options that are best on validation over all seeds.

    Attributes:
        budget: percentage of the given network's FLOPs.
        way: way to it.
        variant: its options.
        options: number of options that validation chose from.
        rows: measurements, one per seed.
    """

    budget: float
    way: str
    variant: str
    options: int
    rows: list[dict[str, Any]]

    def mean(self, column: str) -> float:
        """Return the mean of a column over seeds."""
        return float(statistics.mean(row[column] for row in self.rows))


def write_report(path: Path) -> list[Path]:
    """Write table, CSV and picture beside a JSON file, and print the table."""
    document = json.loads(path.read_text())
    rows = rows_of(document)
    table = path.with_suffix(".md")
    chosen = chosen_of(rows)
    text = "\n".join([_title(document), "", *table_of(chosen), "", *_missing(document)])
    table.write_text(text + "\n")
    print(text)
    if not rows:
        return [path, table]
    write_csv(path.with_suffix(".csv"), rows)
    written = [path, table, path.with_suffix(".csv")]
    try:
        draw(chosen, path.with_suffix(".svg"), _title(document))
    except ImportError as error:
        print(f"\nno picture: {error}; draw it later with --draw {path.name}")
        return written
    return [*written, path.with_suffix(".svg")]


def rows_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per network that was measured."""
    rows = []
    for part, measurements in document["parts"].items():
        for name, found in measurements.items():
            way, *variant, seed = name.split(", ")
            for row in found.get("rows", []):
                kind = f"{way}, {row['part']}" if row.get("part") else way
                known = {"budget": float(part.rstrip("%")), "way": kind, "variant": ", ".join(variant)}
                known |= {"seed": int(seed.removeprefix("seed ")), "train_s": found["train_s"], **row}
                rows.append({column: known.get(column, "") for column in (*COLUMNS, "passes", "spent", "train_s")})
    return rows


def chosen_of(rows: Sequence[dict[str, Any]]) -> list[Chosen]:
    """Choose the options of each way and budget that are best on validation, over the seeds."""
    groups: dict[tuple[float, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        groups.setdefault((row["budget"], row["way"]), {}).setdefault(row["variant"], []).append(row)
    chosen = []
    for (budget, way), variants in groups.items():
        most = max(len(each) for each in variants.values())
        full = {name: each for name, each in variants.items() if len(each) == most}
        names = list(full) if way == "published" else [max(full, key=lambda name: _validated(full[name]))]
        chosen += [Chosen(budget, way, name, len(full), full[name]) for name in names]
    order = list(COLORS)
    return sorted(chosen, key=lambda each: (-each.budget, order.index(each.way)))


def _validated(rows: Sequence[dict[str, Any]]) -> float:
    return float(statistics.mean(row["val_accuracy"] for row in rows))


def table_of(chosen: Sequence[Chosen]) -> list[str]:
    """Make a table in Markdown, with the difference of each way from `compress` in the same seeds."""
    columns = ("budget", "way", "options (of)", "FLOPs", "parameters", "validation", "test", "compress less it", "n")
    lines = [columns, ("---",) * len(columns)]
    whole = {each.budget: {row["seed"]: row for row in each.rows} for each in chosen if each.way == WHOLE}
    for each in chosen:
        own = whole.get(each.budget, {})
        pairs = [own[row["seed"]]["test_accuracy"] - row["test_accuracy"] for row in each.rows if row["seed"] in own]
        difference = f"{100 * statistics.mean(pairs):+.2f}" if pairs and each.way != WHOLE else ""
        lines.append(
            (
                f"{each.budget:g}%",
                each.way,
                f"{each.variant or '-'} ({each.options})",
                f"{100 * each.mean('flops'):.1f}%",
                f"{each.mean('parameters'):,.0f}",
                _percent([row["val_accuracy"] for row in each.rows]),
                _percent([row["test_accuracy"] for row in each.rows]),
                difference,
                str(len(each.rows)),
            )
        )
    return [f"| {' | '.join(line)} |" for line in lines]


def _percent(values: Sequence[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}%"


def _title(document: dict[str, Any]) -> str:
    setting = document.get("setting", {})
    return (
        f"{setting.get('network')} on {setting.get('data')} ({setting.get('train')} training images), "
        f"{setting.get('compute')} epochs of compute each, batch {setting.get('batch_size')}; {document['card']}, "
        f"{setting.get('processes')} processes side by side"
    )


def _missing(document: dict[str, Any]) -> list[str]:
    """Say what failed or was not reached."""
    lines = []
    for part, measurements in document["parts"].items():
        for name, found in measurements.items():
            problem = found.get("skipped") or found.get("error", "").strip().rpartition("\n")[2]
            lines += [f"- {part}, {name}: {problem}"] if problem else []
    return lines


def draw(chosen: Sequence[Chosen], path: Path, subtitle: str) -> None:
    """Draw test accuracy against FLOPs; parts of `compress` with broken lines."""
    from matplotlib.figure import Figure

    from lctprune.reports.figures import NO_METADATA, TIGHT, percent_formatter, style

    with style():
        figure = Figure(figsize=(8.0, 4.8), facecolor="white")
        ax = figure.subplots()
        for way, color in COLORS.items():
            points = sorted((each.mean("flops"), each.mean("test_accuracy")) for each in chosen if each.way == way)
            if points:
                is_part = way.startswith(f"{WHOLE}, ")
                line = "" if way == "published" else ":" if is_part else "-"
                ax.plot(*zip(*points, strict=True), ls=line, marker="." if is_part else "o", color=color, label=way)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(percent_formatter())
        ax.set_xlabel("FLOPs of the given network")
        ax.set_ylabel("test accuracy")
        ax.set_title(subtitle, fontsize=6, loc="left")
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        figure.savefig(path, metadata=NO_METADATA if path.suffix == ".svg" else None, **TIGHT)
