"""What a process does with memory that it has freed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

TOUCHES_LARGE_BLOCKS = """
import resource
import torch
from lctprune.allocator import keep_freed_memory

keep_freed_memory()
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
PAGES = 2**24 * 4 // 4096  # of one block


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_a_freed_block_is_used_again_unless_the_environment_says_how_memory_is_to_be_handled() -> None:
    plain = page_faults({"MALLOC_ARENA_MAX": "1"})
    assert plain > 20 * PAGES
    assert page_faults({}) < plain - 15 * PAGES


def page_faults(variables: dict[str, str]) -> int:
    """Of a process that makes and frees a block of 64 MiB twenty times."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", TOUCHES_LARGE_BLOCKS]
    done = subprocess.run(command, env=own | variables, capture_output=True, text=True, check=True)
    return int(done.stdout)
