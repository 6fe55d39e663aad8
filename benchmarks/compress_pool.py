"""Processes side by side for `compress.py`."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

_T = TypeVar("_T")


class Pool:
    """Processes side by side, of which one that dies takes only its own measurement with it.

    Args:
        count: number of processes.
    """

    def __init__(self, count: int) -> None:
        self._free: queue.Queue[ProcessPoolExecutor] = queue.Queue()
        for _ in range(count):
            self._free.put(_one())
        self._threads = ThreadPoolExecutor(count)

    def submit(self, function: Callable[..., _T], *arguments: object) -> Future[_T]:
        """Call a function in the next process that is free, in the order of the calls of this method."""
        return self._threads.submit(self._call, function, *arguments)

    def _call(self, function: Callable[..., _T], *arguments: object) -> _T:
        process = self._free.get()
        try:
            return process.submit(function, *arguments).result()
        except BrokenProcessPool:
            process = _one()
            raise
        finally:
            self._free.put(process)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
        while not self._free.empty():
            self._free.get().shutdown()


def _one() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
