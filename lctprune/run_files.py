"""Read the files of a run directory as a stranger's: one typed reader per file, one line that says what is wrong."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from lctprune.config.checkpoint import Header
from lctprune.config.history import from_csv, history_problem, merged
from lctprune.config.reading import parse_object
from lctprune.config.run import CONFIG, PARTS, RUNS, RunConfig
from lctprune.config.stopping import best_epoch
from lctprune.errors import RunError, first_line
from lctprune.utils.files import open_regular, read_regular, require_regular, require_run

CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.csv"
BEST = "best.safetensors"  # the network's weights after the best epoch, if that was not the last one
NETWORK_PREFIX = "network."  # of the network's tensors in a checkpoint


class Checkpoint(NamedTuple):
    """One state of a run's network: all of it from one file, whatever training writes meanwhile.

    Attributes:
        epoch: number of whole epochs that it was trained for.
        sha256: hash of the file.
        network: tensors of the network by their names in its state dict.
        step: number of steps taken of the next epoch.
        last: number of whole epochs of the training, which is more than `epoch` where an earlier one was better.
    """

    epoch: int
    sha256: str
    network: dict[str, Tensor]
    step: int = 0
    last: int = 0


def read_config(path: Path) -> RunConfig:
    """Read config.json.

    Raises:
        RunError: the directory is not a run.
    """
    file, remedy = path / CONFIG, "give a run directory, that lctprune train made, or restore the file from a copy"
    try:
        document = parse_object(read_regular(file), file, remedy=remedy)
    except OSError as error:
        require_run(path, CONFIG, RUNS)
        raise RunError(
            f"{path} is not a run directory (it has no readable {CONFIG}); give one that lctprune train made"
        ) from error
    except RunError as error:
        raise RunError(f"{path} is not a run directory: {error}") from error
    if missing := [part for part in PARTS if part not in document]:
        raise RunError(
            f"{path} is not a run directory (its {CONFIG} has no {', no '.join(missing)}); give one that lctprune "
            "train made"
        )
    return RunConfig(document, path)


def read_metrics(path: Path, header: Header) -> tuple[list[dict[str, str]], str]:
    """Read metrics.csv, and check it against the header of the checkpoint; see `Run.read_metrics`."""
    file, rows, problem = path / METRICS, list[dict[str, str]](), ""
    try:
        rows = from_csv(read_regular(file), file)
    except FileNotFoundError:
        problem = f"{file} is missing" if header.epoch else ""
    except OSError as error:
        problem = f"{file} cannot be read ({error.strerror})"
    except RunError as error:
        if header.history is None:
            raise
        problem = str(error)
    problem = problem or history_problem(rows, header.history, header.epoch, file)
    return (merged(header.history, rows) if problem and header.history else rows), problem


def require_no_lost_checkpoint(path: Path) -> None:
    """Refuse a run whose checkpoint is gone: metrics.csv is written after the checkpoint of its first epoch.

    Raises:
        RunError: metrics.csv stands there without a checkpoint.
    """
    file = path / CHECKPOINT
    if os.path.lexists(path / METRICS) and not os.path.lexists(file):
        raise RunError(
            f"{file} is missing, and {METRICS} has epochs that were trained; restore it from a copy, or train again"
        )


def read_header(path: Path) -> Header:
    """Read the header of a run's checkpoint; see `Run.header`."""
    file = path / CHECKPOINT
    if not os.path.lexists(file):
        return Header(epoch=0)
    with _open_checkpoint(file) as checkpoint:
        return Header.of(checkpoint.metadata() or {}, file)


def kept_file(path: Path, keep: str, header: Header) -> Path:
    """Return the file with the networks that a run stands for: of its best epoch, or of its last.

    Args:
        path: run directory.
        keep: setting of the run, "best" or another.
        header: header of its checkpoint, which is the best one itself until an epoch is worse.
    """
    best = best_epoch(header.history or ()) if keep == "best" else None
    return path / (CHECKPOINT if best is None or (best == header.epoch and not header.step) else BEST)


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint, once: the hash and the weights are of the same bytes.

    Raises:
        RunError: there is no whole checkpoint, or a weight is NaN.
    """
    with _readable(file):
        with open_regular(file) as opened:
            content = opened.read()
        tensors = safetensors.torch.load(content)
    document = parse_object(content[8 : 8 + int.from_bytes(content[:8], "little")], file)
    header = Header.of(document.get("__metadata__") or {}, file)
    network = {
        name.removeprefix(NETWORK_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(NETWORK_PREFIX)
    }
    _require_numbers(file, NETWORK_PREFIX, network)
    return Checkpoint(header.epoch, hashlib.sha256(content).hexdigest(), network, header.step, header.epoch)


def read_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """Read tensors of a run's checkpoint; see `Run.read_checkpoint`."""
    with _open_checkpoint(path / CHECKPOINT) as checkpoint:
        names = [name for name in checkpoint.keys() if name.startswith(prefix)]  # noqa: SIM118, not a dict
        tensors = {name.removeprefix(prefix): checkpoint.get_tensor(name) for name in names}
    _require_numbers(path / CHECKPOINT, prefix, tensors)
    return tensors


def _require_numbers(file: Path, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    if broken := [name for name, tensor in tensors.items() if _has_nan(tensor)]:
        more = f" and {len(broken) - 1} more" if broken[1:] else ""
        raise RunError(f"{file} has NaN in {prefix}{broken[0]}{more}; restore it from a copy, or train again")


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of the tensors in a checkpoint, without reading the tensors.

    Raises:
        RunError: there is no whole checkpoint.
    """
    with _open_checkpoint(file) as checkpoint:
        names = list(checkpoint.keys())
        return {name: tuple(checkpoint.get_slice(name).get_shape()) for name in names}


def _open_checkpoint(file: Path) -> Any:
    with _readable(file):
        require_regular(file)
        return safetensors.safe_open(file, framework="pt")


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn errors raised inside the block into a `RunError`: the checkpoint is missing or damaged."""
    what = f"{file.parent} has no readable {file.name}"
    remedy = "train it again"
    if file.name == BEST:
        remedy = f'to use the last epoch, set "keep" to "last" in {file.parent / CONFIG}'
    try:
        yield
    except FileNotFoundError as error:
        if file.name == BEST:
            raise RunError(f"{what}, the networks of its best epoch; restore it from a copy; {remedy}") from error
        raise RunError(f"{what} (no epoch was finished?); {remedy}") from error
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{what} ({first_line(error)}); restore it from a copy, or {remedy}") from error


def _has_nan(tensor: Tensor) -> bool:
    return (tensor.is_floating_point() or tensor.is_complex()) and bool(tensor.isnan().any())
