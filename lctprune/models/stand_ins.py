"""Read files of `torch.save` without their objects' code: objects of other classes are replaced by empty stand-ins.

Scripts save options, dates, paths, enumerations and figures beside the weights. PyTorch's restricted reader refuses
these; here it makes a stand-in of each, on which nothing of their classes is executed or even imported.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

ATTEMPTS = 100  # at reading a file, each of which finds further names
# modules and functions that weights have no use for, and attacks do
_BLOCKED_MODULES = (
    *("os", "posix", "nt", "sys", "subprocess", "commands"),  # commands: how pickles name functions of subprocess
    *("importlib", "runpy", "pty", "socket", "ctypes", "shutil"),
)
_BLOCKED_BUILTINS = ("eval", "exec", "compile", "open", "input", "breakpoint", "__import__", "globals", "vars")
_UNKNOWN = re.compile(r"GLOBAL (\S+) was not an allowed global|GLOBAL (\S+) whose module \S+ is blocked")
_NO_MAPPING = re.compile(r"Can only SETITEMS? for .* but got <class '([^']+)'>")
_NO_LIST = re.compile(r"Can only append to lists, but got <class '([^']+)'>")


class UnreadableError(Exception):
    """A file holds objects that cannot be passed over.

    Args:
        names: names of their classes and functions; empty where something else is wrong.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = list(names)


class _StandIn:
    """An empty object in place of one that is not wanted: none of that class's code runs."""

    def __init__(self, *values: object) -> None:
        """Forget all values."""

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


class _MappingStandIn:
    """A dictionary in place of an object of a class that holds items, such as a defaultdict."""

    def __new__(cls, *values: object) -> Any:
        """Return an empty dictionary of a kind that PyTorch's reader fills."""
        return collections.OrderedDict()


class _ListStandIn(list[Any]):
    """A list in place of an object of a class that holds elements, such as a deque."""

    def __init__(self, *values: object) -> None:
        """Forget all values."""

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


_CONTAINERS = {"collections.defaultdict": _MappingStandIn, "collections.deque": _ListStandIn}


def load_without_code(path: Path) -> tuple[Any, list[str]]:
    """Read a file of `torch.save`: tensors, plain values, and stand-ins for all other objects.

    Args:
        path: file.

    Returns:
        Content of the file; and the names of the classes and functions whose objects were passed over.

    Raises:
        UnreadableError: the file holds calls of the system, or tensors of classes that cannot be passed over.
        Exception: it is no file of `torch.save`, or broken.
    """
    kinds: dict[str, type] = {}
    with suppress(Exception):  # what is no zip archive is read in the old format
        kinds = _kinds_for(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    for _ in range(ATTEMPTS):
        if blocked := sorted(name for name in kinds if _is_blocked(name)):
            raise UnreadableError(blocked)
        try:
            with _standing_in(kinds):
                return torch.load(path, map_location="cpu", weights_only=True), sorted(kinds)
        except Exception as error:
            further = _further_kinds(str(error), kinds)
            if not further:
                if kinds:
                    raise UnreadableError(sorted(kinds)) from error
                raise
            kinds |= further
    raise UnreadableError(sorted(kinds))


def _standing_in(kinds: Mapping[str, type]) -> Any:
    """Let PyTorch's restricted reader make stand-ins of objects of some classes."""
    made: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    for name, kind in kinds.items():
        module, _, own = name.rpartition(".")
        made.append((type(own, (kind,), {"__module__": module}), name))  # its own, so that errors name it
    return torch.serialization.safe_globals(made)


def _kinds_for(names: Iterable[str]) -> dict[str, type]:
    """Return what is to stand in for classes and functions, by their names."""
    return {name: _CONTAINERS.get(name, _StandIn) for name in names}


def _further_kinds(message: str, known: Mapping[str, type]) -> dict[str, type]:
    """Return what is to stand in for the class for which an attempt at reading a file failed."""
    for pattern, kind in ((_NO_MAPPING, _MappingStandIn), (_NO_LIST, _ListStandIn)):
        if (match := pattern.search(message)) and known.get(match[1]) is _StandIn:
            return {match[1]: kind}
    names = [match[1] or match[2] for match in _UNKNOWN.finditer(message)]
    names = [name if "." in name else f"builtins.{name}" for name in names]  # as the message leaves it out
    return _kinds_for(name for name in names if name not in known)


def _is_blocked(name: str) -> bool:
    module, _, own = name.rpartition(".")
    return module.partition(".")[0] in _BLOCKED_MODULES or (module == "builtins" and own in _BLOCKED_BUILTINS)
