"""The errors that lctprune raises on purpose: one small tree, one clear line each."""

from __future__ import annotations

from typing import Protocol

FAILED, WRONG_USAGE, NOTHING_FITS, INTERRUPTED = 1, 2, 3, 130  # exit codes of the command line
LONGEST_CAUSE = 300  # characters of another library's error in a message


class LctpruneError(Exception):
    """Base of every error that lctprune raises on purpose."""


class ConfigError(LctpruneError, ValueError):
    """A setting has a value that cannot be used."""


class NetworkError(LctpruneError, ValueError):
    """Groups and critics do not form a network that local critic training can train."""


class PartitionError(NetworkError):
    """A model cannot be cut into the layer groups that were asked for."""


class CutPointError(PartitionError, ConfigError):
    """A model has no such cut point, or not so many."""


class NetworkWarning(UserWarning):
    """A network is not quite what was asked for: an auxiliary head is left out, a classifier is new."""


class UnknownOperationError(LctpruneError, ValueError):
    """A network uses an operation that has no FLOP formula."""


class DataError(LctpruneError, ValueError):
    """A data set is missing, malformed, or too small to be split."""


class UnknownDataError(DataError, ConfigError):
    """Nothing has the name that was given for the data."""


class DataWarning(UserWarning):
    """A part of a data set is not used, or not as it may seem: files are left out, links lead to nothing."""


class TrainingError(LctpruneError, RuntimeError):
    """Training cannot go on, for instance because a loss is not finite."""


STOPPED = "stopped by "  # how the message of a `TrainingInterrupted` begins


class TrainingInterrupted(KeyboardInterrupt):
    """A signal asked a training to stop, and it wrote a checkpoint first; the message says how to go on."""


class ProcessLostError(LctpruneError, RuntimeError):
    """Another process of the same training has ended, or does not answer.

    Attributes:
        sibling: process number of the one that does not answer, if this process's launcher started it too.
    """

    def __init__(self, message: str, sibling: int | None = None) -> None:
        super().__init__(message)
        self.sibling = sibling


class RunError(LctpruneError, RuntimeError):
    """A run directory cannot be created, read or continued."""


class RunWarning(UserWarning):
    """A file of a run is damaged, and was restored or is done without."""


class RuntimeNote(UserWarning):
    """A latency was measured in the runtime that is fastest here, which is named."""


class ReducedNote(UserWarning):
    """A network has no form in a precision that was asked for, and is measured without."""


class ExportError(LctpruneError, RuntimeError):
    """An exported network differs from the original, or cannot be written; nothing was written."""


class NearestCandidate(Protocol):
    """The candidate that comes nearest to a budget, as far as an error names it."""

    @property
    def exit(self) -> int:
        """The number of the exit."""

    @property
    def name(self) -> str:
        """The name for people."""


class BudgetError(LctpruneError, ValueError):
    """No candidate fits the budget.

    Attributes:
        nearest: the candidate that misses the budget by the smallest factor, or None where no cost is known.
        misses: for each budget that `nearest` misses, its name and the factor cost / limit (above 1).
    """

    def __init__(
        self, message: str, nearest: NearestCandidate | None = None, misses: dict[str, float] | None = None
    ) -> None:
        super().__init__(message)
        self.nearest = nearest
        self.misses = misses or {}


def first_line(error: BaseException, otherwise: str | None = None) -> str:
    """Return the first line of another library's error, for a message of one line; only its beginning if it is long.

    Args:
        error: the error.
        otherwise: text for an error without a message; by default the name of its type.
    """
    line = next(iter(str(error).strip().splitlines()), otherwise or type(error).__name__)
    return line if len(line) <= LONGEST_CAUSE else f"{line[:LONGEST_CAUSE]}..."
