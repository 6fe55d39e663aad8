"""Compute the table of the recall of each class."""

from __future__ import annotations

from collections.abc import Sequence

from lctprune.measure.candidates import Candidate
from lctprune.measure.recall import ClassRecall
from lctprune.measure.selection import main_of
from lctprune.reports.formats import percent
from lctprune.reports.grid import Cell, Row, Table
from lctprune.runs import Run

MOST_CLASSES = 20  # in the table; of more, those of lowest recall are shown
MOST_NAMED = 10  # classes without samples


def recall_table(recall: ClassRecall, run: Run, candidates: Sequence[Candidate], chosen: Candidate | None) -> Table:
    """Return the recall of each class of the chosen network and the main network, the lowest first.

    Args:
        recall: recall of each class.
        run: run, whose data names the classes.
        candidates: measured candidates.
        chosen: chosen candidate.
    """
    names = run.config.data.classes if run.config.data else ()
    shown = [*([chosen] if chosen else []), main_of(candidates)]
    networks = {each.name: recall.exits[each.exit] for each in shown if each.key in recall.exits}
    labels = [names[number] if number < len(names) else str(number) for number in range(len(recall.samples))]
    first = next(iter(networks.values()), [])
    measured = [(value, number) for number, value in enumerate(first) if value is not None]
    rows = []
    for _, number in sorted(measured)[:MOST_CLASSES]:
        recalls = [_cell(values[number]) for values in networks.values()]
        rows.append(
            Row(
                cells=[
                    Cell(labels[number], value=labels[number]),
                    Cell(f"{recall.samples[number]:,}", value=recall.samples[number]),
                    *recalls,
                ],
                chosen=False,
            )
        )
    columns = ["class", "validation samples", *(f"recall of {name}" for name in networks)]
    return Table(columns=columns, rows=rows, note=_note(recall, labels, len(measured)))


def _cell(value: float | None) -> Cell:
    return Cell("-" if value is None else percent(value), value=value)


def _note(recall: ClassRecall, labels: Sequence[str], measured: int) -> str:
    note = "Recall: the fraction of the validation samples of a class that are classified as it, lowest first."
    if measured > MOST_CLASSES:
        note += f" These are the {MOST_CLASSES} lowest of {measured} classes."
    if missing := [label for label, count in zip(labels, recall.samples, strict=True) if not count]:
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        note += f" No validation samples, so no recall: {', '.join(missing[:MOST_NAMED])}{more}."
    return note
