"""A run's checkpoint file: weights and optimiser states after a whole epoch, as safetensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from lctprune.errors import RunError

CHECKPOINT = "checkpoint.safetensors"
NETWORK_PREFIX = "network."  # of the network's tensors


class Checkpoint(NamedTuple):
    """One state of a run's network: all of it from one file, whatever training writes meanwhile.

    Attributes:
        epoch: number of epochs that it was trained for.
        sha256: hash of the file.
        network: tensors of the network by their names in its state dict.
    """

    epoch: int
    sha256: str
    network: dict[str, Tensor]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint in a run directory, once: the hash and the weights are of the same bytes.

    Raises:
        RunError: there is no whole checkpoint.
    """
    try:
        content = (folder / CHECKPOINT).read_bytes()
        tensors = safetensors.torch.load(content)
    except (OSError, safetensors.SafetensorError) as error:
        raise _no_checkpoint(folder) from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # which `load` keeps to itself
    network = {
        name.removeprefix(NETWORK_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(NETWORK_PREFIX)
    }
    epoch = int(header.get("__metadata__", {}).get("epoch", 0))
    return Checkpoint(epoch, hashlib.sha256(content).hexdigest(), network)


def open_checkpoint(folder: Path) -> Any:
    """Open the checkpoint in a run directory, to read some of its tensors.

    Raises:
        RunError: there is no whole checkpoint.
    """
    try:
        return safetensors.safe_open(folder / CHECKPOINT, framework="pt")
    except (OSError, safetensors.SafetensorError) as error:
        raise _no_checkpoint(folder) from error


def _no_checkpoint(folder: Path) -> RunError:
    return RunError(f"{folder} has no readable {CHECKPOINT} (no epoch was finished?); train it again")
