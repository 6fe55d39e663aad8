"""The command line: parse, call the library, show."""

import sys
from types import TracebackType


def _one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Say in one line that a command was interrupted, also while its modules are still imported."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("lctprune: error: interrupted\n")
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _one_line
