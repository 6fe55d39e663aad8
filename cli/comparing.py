"""Measure several runs and show them beside each other: for `compare` and `select --compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lctprune.cli.console import megabytes, print_table, quantity, stdout
from lctprune.cli.results import measured, opened, results_folder
from lctprune.config.metric import interval_text, score_text
from lctprune.errors import ConfigError
from lctprune.measure.candidates import Candidate
from lctprune.measure.choice import not_faster
from lctprune.measure.comparison import Compared, compared
from lctprune.runs import Run
from lctprune.utils.files import write_atomically
from lctprune.utils.names import spreadsheet_text, visible
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.model_card import candidate_record

STEM = "comparison"


def run_names(runs: Sequence[Run]) -> list[str]:
    """Name runs by their folders, or by their paths where two folders have one name.

    Raises:
        ConfigError: a run is named twice.
    """
    paths = [run.path.resolve() for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(f"{path} is given twice; name different runs")
    names = [path.name for path in paths]
    return [name if names.count(name) == 1 else str(run.path) for name, run in zip(names, runs, strict=True)]


def require_same_data(runs: Sequence[Run]) -> None:
    """Refuse runs whose scores are not of the same data.

    Raises:
        ConfigError: two runs were trained on data of different names or classes.
    """
    first, *others = runs
    for other in others:
        here, there = first.config.data, other.config.data
        names = [Path(each.config.name).name if each else "data made in a program" for each in (here, there)]
        if names[0] != names[1]:
            shown = [each.config.name if each else "data made in a program" for each in (here, there)]
            raise ConfigError(
                f"{first.path} was trained on {shown[0]} and {other.path} on {shown[1]}; their scores cannot be "
                "compared: name runs on the same data"
            )
        if here and there and here.classes != there.classes:
            raise ConfigError(f"{first.path} and {other.path} have other classes; their scores cannot be compared")


def opened_others(first: Run, paths: Sequence[Path], *, partial: bool) -> dict[str, Run]:
    """Open further runs to be compared with the first, and return all by their names, the first in front.

    Raises:
        ConfigError: a run is named twice, or is of other data.
        RunError: a path is not that of a run.
    """
    runs = [first, *(opened(path, partial=partial) for path in paths)]
    require_same_data(runs)
    return dict(zip(run_names(runs), runs, strict=True))


def measured_all(runs: Mapping[str, Run], *, latency_batch: int) -> dict[str, list[Candidate]]:
    """Measure the candidates of runs, by the names of the runs."""
    return {
        name: measured(run, results_folder(run, None), latency_batch=latency_batch, loaded=LoadedRun(run))
        for name, run in runs.items()
    }


def write_comparison(runs: Mapping[str, Sequence[Candidate]], folder: Path) -> None:
    """Write comparison.csv, comparison.png and comparison.svg into a folder."""
    from lctprune import reports  # pandas and matplotlib take a second to import
    from lctprune.reports.tables import TEXTS

    frame = reports.comparison_frame(runs)
    for column in ("run", *TEXTS):
        frame[column] = frame[column].map(spreadsheet_text)
    write_atomically(folder / f"{STEM}.csv", frame.to_csv(index=False, lineterminator="\n").encode())
    named = {visible(name): candidates for name, candidates in runs.items()}
    reports.save_figure(reports.comparison_figure(named), folder / STEM)


def comparison_records(runs: Mapping[str, Sequence[Candidate]]) -> list[dict[str, Any]]:
    """Return the comparison as plain JSON values."""
    return [
        {
            "run": each.run,
            **candidate_record(each.candidate),
            "on_front": each.on_front,
            "against_best": each.against_best and each.against_best._asdict(),
        }
        for each in compared(runs)
    ]


def show_comparison(runs: Mapping[str, Sequence[Candidate]]) -> None:
    """Print one table of all runs."""
    console, entries = stdout(), compared(runs)
    slow = [each for candidates in runs.values() for each in not_faster(candidates)]
    rows = [_cells(each, is_slow=any(each.candidate is other for other in slow)) for each in entries]
    if all(each.against_best is None for each in entries):
        rows = [{name: cell for name, cell in row.items() if name != "p"} for row in rows]
    dispensable = ("size", "params", "95% interval", "p")
    print_table(console, rows, dispensable=dispensable, left=["", "run", "network"], folded=["run", "network"])
    console.print(f"\n* on the common Pareto front of {entries[0].candidate.metric} and FLOPs.")
    if "p" in rows[0]:
        console.print("p: exact McNemar test against the best of all, on the same samples (-: other samples).")
    if slow:
        console.print("! fewer FLOPs than the run's main network, but not faster.")


def _cells(entry: Compared, *, is_slow: bool) -> dict[str, str]:
    each = entry.candidate
    return {
        "": "*" if entry.on_front else "",
        "run": entry.run,
        "network": each.name,
        each.metric: score_text(each.score, each.metric),
        "95% interval": interval_text(*each.score_interval, each.metric),
        "p": f"{entry.against_best.p_value:.2g}" if entry.against_best else "-",
        "FLOPs": quantity(each.flops),
        "params": quantity(each.parameters),
        "latency": "?" if each.latency_ms is None else f"{each.latency_ms:.2f} ms" + "!" * is_slow,
        "size": megabytes(each.size_bytes),
    }
