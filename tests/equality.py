"""Whether two runs or networks are equal to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

import lctprune as lct


def digests(run: lct.Run) -> dict[str, str]:
    """Of the run's own files."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.path.iterdir() if path.is_file()}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
