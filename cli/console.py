"""What people see goes to stderr, through rich; what machines read goes to stdout, as one JSON document."""

from __future__ import annotations

import json
import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from lctprune.cli.wording import with_options
from lctprune.errors import DataWarning, NetworkWarning, ReducedNote, RuntimeNote, RunWarning
from lctprune.utils.names import visible

if TYPE_CHECKING:
    from lctprune.measure.candidates import Candidate
    from lctprune.runs import Run

NOTED = (
    DataWarning,
    NetworkWarning,
    RunWarning,
    ReducedNote,
    RuntimeNote,
)  # warnings of the library that are printed as notes
FOLDED_WIDTH = 24  # columns of a cell whose text may continue on a further line
COMMAND = re.compile(r"\b(?:lctprune [a-z]+|pip install) ")
PIPED_WIDTH = 160  # columns of tables where the output is no terminal: enough for all of them
# columns that a narrow table of candidates does without, the least important first
DISPENSABLE = ("loss", "MACs", "size", "params", "95% interval")


class PlainConsole(Console):
    """A console that prints text as it is: no markup, no emoji codes, hidden characters written out.

    Line feeds at the start and the end of a text are kept; others come from names, and are written out too. A text with
    a command is not broken into lines, so that it can be copied.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts, and rich's tables and the like; see rich for the options."""
        if any(isinstance(each, str) and COMMAND.search(each) for each in objects):
            options.setdefault("soft_wrap", True)
        super().print(*(_shown(each) if isinstance(each, str) else each for each in objects), **options)


def _shown(text: str) -> str:
    body = text.strip("\n")
    return text.replace(body, visible(with_options(body)), 1)


def units(run: Run, candidates: Sequence[Candidate]) -> str:
    """Say what the figures of `print_candidates` mean."""
    from lctprune.measure.units import latency_conditions

    steps = run.config.network.steps if run.config.network else None
    sample = f"one sequence of {steps} steps" if steps else "one sample"
    latency = (
        f"latency is the median of one call, batch {candidates[0].latency_batch}, in {latency_conditions(candidates)}"
    )
    precision = run.config.training.precision
    scores = (
        ""
        if precision == "fp32"
        else f"; here {candidates[0].metric} is computed in float32, in training in {precision}"
    )
    return f"1 FLOP is one multiply or one add, for {sample}; {latency}{scores}"


def stderr() -> Console:
    """Return the console for progress and notes."""
    return PlainConsole(stderr=True, soft_wrap=not sys.stderr.isatty())


def stdout() -> Console:
    """Return the console for results; a terminal wraps lines at words, a file or pipe gets them whole."""
    is_terminal = sys.stdout.isatty()
    return PlainConsole(soft_wrap=not is_terminal, width=None if is_terminal else PIPED_WIDTH)


@contextmanager
def printed_warnings(console: Console) -> Iterator[None]:
    """Print warnings of the library as notes, each once."""
    with warnings.catch_warnings(record=True) as caught:
        for category in NOTED:
            warnings.simplefilter("always", category)
        yield
    notes = [str(warning.message) for warning in caught if issubclass(warning.category, NOTED)]
    print_notes(console, list(dict.fromkeys(notes)))  # each once, however often the network was built


def print_notes(console: Console, notes: Sequence[str]) -> None:
    """Print notes, a line each."""
    for note in notes:
        console.print(f"Note: {note}.")


def print_json(document: object) -> None:
    """Print one strict JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_table(
    console: Console,
    rows: Sequence[Mapping[str, str]],
    *,
    dispensable: Sequence[str],
    left: Sequence[str] = (),
    folded: Sequence[str] = (),
    bold: int | None = None,
) -> None:
    """Print a table, and leave out whole columns rather than cut what stands in them.

    Args:
        console: where to.
        rows: cells by the headings of their columns.
        dispensable: headings of the columns that a narrow table does without, the least important first.
        left: headings of the columns that are aligned to the left.
        folded: headings of the columns whose text may continue on a further line.
        bold: index of the row that is printed in bold.
    """
    headings, unlimited = list(rows[0]), console.options.update(max_width=10_000)
    for heading in ("", *dispensable):
        headings = [each for each in headings if each != heading or not heading]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for each in headings:
            width = {"max_width": FOLDED_WIDTH, "overflow": "fold"} if each in folded else {"no_wrap": True}
            table.add_column(each, justify="left" if each in left else "right", **width)
        for index, cells in enumerate(rows):
            table.add_row(*(visible(cells[each]) for each in headings), style="bold" if index == bold else None)
        if Measurement.get(console, unlimited, table).maximum <= console.width:
            break
    console.print(table)


def print_candidates(
    console: Console,
    candidates: Sequence[Candidate],
    *,
    chosen: Candidate | None,
    front: Sequence[Candidate],
    marks: Mapping[int | str, str] | None = None,
) -> None:
    """Print a table of the exits, with an arrow at the chosen one and stars on the Pareto front.

    Args:
        console: where to.
        candidates: candidates in the order of the rows.
        chosen: the chosen one.
        front: those on the Pareto front.
        marks: marks beside latencies, by the key of the candidate.
    """
    marks = marks or {}
    rows = [
        {"": "→" if candidate is chosen else "*" if candidate in front else ""}
        | _cells(candidate, marks.get(candidate.key, ""))
        for candidate in candidates
    ]
    bold = next((index for index, candidate in enumerate(candidates) if candidate is chosen), None)
    names = ("", "network")
    dispensable = [heading for heading in DISPENSABLE if heading != candidates[0].metric]
    print_table(console, rows, dispensable=dispensable, left=names, folded=["network"], bold=bold)


def _cells(candidate: Candidate, mark: str) -> dict[str, str]:
    from lctprune.config.combined import PROGRESSIVE
    from lctprune.config.metric import interval_text, score_text
    from lctprune.measure.units import number_text

    mean = " mean" if candidate.combined == PROGRESSIVE else ""

    return {
        "exit": str(candidate.exit),
        "network": candidate.name + _origin(candidate),
        candidate.metric: score_text(candidate.score, candidate.metric),
        "95% interval": interval_text(*candidate.score_interval, candidate.metric),
    } | {
        **({} if candidate.rmse is None else {"RMSE": number_text(candidate.rmse)}),
        "loss": "-" if math.isnan(candidate.loss) else f"{candidate.loss:.3f}",
        "FLOPs": quantity(candidate.flops) + mean,
        "MACs": quantity(candidate.macs) + mean,
        "params": quantity(candidate.parameters),
        "latency": "?" if candidate.latency_ms is None else f"{candidate.latency_ms:.2f} ms{mark}{mean}",
        "size": megabytes(candidate.size_bytes),
    }


def _origin(candidate: Candidate) -> str:
    """Return where a network without a name of its own comes from, as earlier versions recorded it."""
    return f" ({candidate.origin})" if candidate.origin and candidate.name == f"exit {candidate.exit}" else ""


def megabytes(size: float) -> str:
    """Write a number of bytes in MB, of a million bytes."""
    return f"{size / 1e6:.3g} MB" if size < 1e6 else f"{size / 1e6:.1f} MB"


def quantity(value: float | None) -> str:
    """Write 401M or 1.11G; a question mark if the value is not known."""
    from lctprune.measure.units import engineering

    return "?" if value is None else engineering(value)
