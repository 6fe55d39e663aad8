"""The errors that lctprune raises on purpose: one small tree, one clear line each."""

from __future__ import annotations

from typing import Protocol

FAILED, WRONG_USAGE, NOTHING_FITS, INTERRUPTED = 1, 2, 3, 130  # exit codes of the command line


class LctpruneError(Exception):
    """Base of every error that lctprune raises on purpose."""


class ConfigError(LctpruneError, ValueError):
    """A setting has a value that cannot be used."""


class NetworkError(LctpruneError, ValueError):
    """Groups and critics do not form a network that local critic training can train."""


class PartitionError(NetworkError):
    """A model cannot be cut into the layer groups that were asked for."""


class NetworkWarning(UserWarning):
    """A network is not quite what was asked for: an auxiliary head is left out, a classifier is new."""


class UnknownOperationError(LctpruneError, ValueError):
    """A network uses an operation whose FLOPs nobody taught the counter."""


class DataError(LctpruneError, ValueError):
    """A data set is missing, malformed, or too small to be split."""


class TrainingError(LctpruneError, RuntimeError):
    """Training cannot go on, for instance because a loss is not finite."""


class ProcessLostError(LctpruneError, RuntimeError):
    """Another process of the same training has ended, or does not answer.

    Attributes:
        sibling: process number of one that does not answer, if this one's launcher started it too.
    """

    def __init__(self, message: str, sibling: int | None = None) -> None:
        super().__init__(message)
        self.sibling = sibling


class RunError(LctpruneError, RuntimeError):
    """A run directory cannot be created, read or continued."""


class ExportError(LctpruneError, RuntimeError):
    """An exported network does not do what the original does; nothing was written."""


class NearestCandidate(Protocol):
    """What an error says of the candidate that comes nearest to a budget."""

    @property
    def exit(self) -> int: ...

    @property
    def name(self) -> str: ...


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
    """What somebody else's error says, for a message of one line; `otherwise`, or its type, where it says nothing."""
    return next(iter(str(error).strip().splitlines()), otherwise or type(error).__name__)
