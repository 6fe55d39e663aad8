"""The device of these tests: CUDA, or what LCTPRUNE_TEST_DEVICE names, to try the tests themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; deterministic products need it


@pytest.fixture
def device() -> str:
    """The device to test on; a test is skipped where there is none."""
    name = os.environ.get("LCTPRUNE_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    return name


@pytest.fixture
def deterministic(device: str) -> Iterator[None]:
    """Let the same computation give the same bits, as far as the device can."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
