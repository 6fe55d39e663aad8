"""Return candidates and metrics as data frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pandas

from lctprune.errors import RunError
from lctprune.measure.candidates import Candidate
from lctprune.run_files import METRICS
from lctprune.runs import Run
from lctprune.utils.files import write_atomically
from lctprune.utils.names import spreadsheet_text

FIELDS = [field.name for field in dataclasses.fields(Candidate) if field.name != "answers"]
INTERVAL = ["accuracy_low", "accuracy_high", "score_low", "score_high"]
INTEGERS = ("exit", "parameters", "size_bytes", "latency_batch")
INTEGERS_OR_NA = ("flops", "macs", "samples", "latency_threads")
TEXTS = ("name", "metric", "origin", "batch_dependence", "latency_runtime", "precision", "combined")


def candidates_frame(candidates: Sequence[Candidate]) -> pandas.DataFrame:
    """Return one row per exit: every field of `Candidate`, and the 95% intervals of its accuracy and score.

    Args:
        candidates: candidates in the order of the rows.

    Returns:
        Units as in `Candidate`: accuracies 0 to 1, flops and macs per sample, latencies in ms. Unknown
        values are NA in columns of integers and NaN in columns of floats. If the number of samples is unknown, the
        interval is 0 to 1.
    """
    rows = [
        [*(getattr(candidate, name) for name in FIELDS), *candidate.accuracy_interval, *candidate.score_interval]
        for candidate in candidates
    ]
    frame = pandas.DataFrame(rows, columns=[*FIELDS, *INTERVAL], dtype=object)  # large integers stay exact
    dtypes = dict.fromkeys(INTEGERS, "int64") | dict.fromkeys(INTEGERS_OR_NA, "Int64") | dict.fromkeys(TEXTS, "object")
    return frame.astype({column: dtypes.get(column, "float64") for column in frame.columns})


def write_candidates(candidates: Sequence[Candidate], path: Path) -> None:
    """Write `candidates_frame` as CSV, atomically, with empty cells for unknown values; no text is a formula.

    Args:
        candidates: candidates in the order of the rows.
        path: output file.

    Raises:
        OSError: the folder cannot be written to.
    """
    frame = candidates_frame(candidates)
    for column in TEXTS:
        frame[column] = frame[column].map(spreadsheet_text)
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n").encode())


def metrics_frame(run: Run) -> pandas.DataFrame:
    """Return metrics.csv as numbers, one row per epoch; the frame is empty if no epoch was finished.

    Args:
        run: run whose accuracies (0 to 1) and losses (means per sample) are read.

    Raises:
        RunError: metrics.csv holds something that is not a number.
    """
    try:
        rows = pandas.DataFrame(run.metrics)
        return pandas.DataFrame({name: pandas.to_numeric(rows[name]) for name in rows.columns})
    except (TypeError, ValueError) as error:
        raise RunError(f"{run.path / METRICS} holds something that is not a number ({error}); train again") from error
