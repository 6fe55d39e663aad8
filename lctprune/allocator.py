"""How this process's memory is given back to the system: not at all, while it trains."""

from __future__ import annotations

import ctypes
import os
import sys

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # of glibc's mallopt(3)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, for the rest of this process, to use it again.

    By itself it returns large blocks to the system, and each step of training gets them back filled with zeros, a page
    at a time. The peak stays about the same. Does nothing with another C library, or where a variable `MALLOC_...` of
    the environment says how memory is to be handled.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)  # large blocks from the heap, as all others
        mallopt(TRIM_THRESHOLD, -1)  # whose end stays
