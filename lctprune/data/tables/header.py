"""Tell whether the first line of a table holds the names of its columns, or is a row."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from lctprune.errors import DataError, DataWarning

MISSING = frozenset(("", "?", "-", "na", "n/a", "n.a.", "#n/a", "nan", "null", "none"))  # in lower case
SAMPLED_ROWS = 1000  # that the first line is compared with
YEARS = range(1800, 2101)
_Rows = Sequence[tuple[int, Sequence[str]]]  # line in the file, cells


def is_missing(cell: str) -> bool:
    """Whether a cell is empty, or says that a value is missing."""
    return cell.strip().lower() in MISSING


def has_header(path: Path, rows: _Rows, is_number: Callable[[str], bool]) -> bool:
    """Tell whether the first line holds the names of the columns; warn where that line holds numbers.

    - A line without numbers holds names, unless one of its texts occurs again further down in its column.
    - A line of numbers, and of texts that occur again further down and none of which stands above numbers, is a row.
    - A line of numbers in an order in which those of other lines are not, such as 0 to 783, with a text that stands
      nowhere else in its column, holds names.

    Args:
        path: the file, for messages.
        rows: all lines.
        is_number: function that says whether a cell is a number.

    Raises:
        DataError: it may be either: texts that stand nowhere else are beside numbers in no order, texts above numbers
            are beside a text that occurs again, or there are only numbers, in an order in which those of other lines
            are not, such as years.
    """
    first, below = [cell.strip() for cell in rows[0][1]], rows[1 : SAMPLED_ROWS + 1]
    columns = [_present(cells[index] for _, cells in below) for index in range(len(first))]
    places = [index for index, cell in enumerate(first) if is_number(cell)]
    texts = [index for index, cell in enumerate(first) if not is_number(cell) and not is_missing(cell)]
    above_numbers = [index for index in texts if 2 * sum(map(is_number, columns[index])) > len(columns[index])]
    headed = {*above_numbers}
    others = [index for index in texts if index not in headed]
    recurs = any(first[index] in columns[index] for index in others)
    if not places:
        return bool(texts) and (bool(above_numbers) or not recurs)
    if recurs and above_numbers:
        _refuse(path, rows[0], "it holds text above numbers, and text that stands again in its column")
    if recurs:
        return _as_row(path, len(first))
    numbers = [float(first[place]) for place in places]
    if above_numbers or any(2 * len(set(columns[index])) <= len(columns[index]) for index in others):
        is_name = _is_ordered(numbers) and (len(numbers) >= 5 or all(number.is_integer() for number in numbers))
        if not (is_name if above_numbers else _stands_out(numbers, below, places)):
            _refuse(path, rows[0], "it holds numbers, and text that stands nowhere else in its column")
        warnings.warn(f"the first line of {path} is taken for the names of its columns", DataWarning, stacklevel=2)
        return True
    if not texts and _stands_out(numbers, below, places):
        _refuse(path, rows[0], "its numbers are in an order in which those of other lines are not")
    return _as_row(path, len(first))


def _present(cells: Iterable[str]) -> list[str]:
    return [cell.strip() for cell in cells if not is_missing(cell)]


def _as_row(path: Path, columns: int) -> bool:
    warnings.warn(
        f"{path} has no line of names: its first line is a row, and its columns are called 1 to {columns}",
        DataWarning,
        stacklevel=3,
    )
    return False


def _refuse(path: Path, line: tuple[int, Sequence[str]], reason: str) -> None:
    start = ", ".join(cell.strip() for cell in itertools.islice(line[1], 4))
    raise DataError(
        f"{path}, line {line[0]} ({start}{', ...' if len(line[1]) > 4 else ''}) may be a row or the names of the "
        f"columns: {reason}; put a line of names above it, or write names that are not numbers (y2019 for 2019)"
    )


def _is_ordered(numbers: Sequence[float]) -> bool:
    """Whether numbers only rise or only fall, as those that are names do: 0 to 783, years, wavelengths."""
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    return all(step > 0 for step in steps) or all(step < 0 for step in steps)


def _looks_like_names(numbers: Sequence[float]) -> bool:
    steps = {round(after - before, 9) for before, after in itertools.pairwise(numbers)}
    are_years = len(numbers) > 1 and all(number in YEARS for number in numbers)
    return _is_ordered(numbers) and (are_years or len(numbers) >= 5 or (len(numbers) >= 3 and len(steps) == 1))


def _stands_out(numbers: Sequence[float], below: _Rows, places: Sequence[int]) -> bool:
    """Whether the first line's numbers look like names, as fewer than a tenth of the other lines' do."""
    if not _looks_like_names(numbers):
        return False
    passed = 0
    for _, cells in below:
        with suppress(ValueError):  # a cell that is missing
            passed += _looks_like_names([float(cells[place]) for place in places])
    return 10 * passed < len(below)
