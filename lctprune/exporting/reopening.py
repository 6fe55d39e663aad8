"""Open exported files again as their user will: in a new process, with their runtime and nothing of lctprune."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy
import torch
from torch import Tensor

from lctprune.errors import ExportError
from lctprune.exporting import runtimes
from lctprune.exporting.formats import RUNTIMES, SUFFIXES
from lctprune.exporting.runtimes import Trial, tried
from lctprune.exporting.writing import Converted, write_exported

MAX_SECONDS = 600  # of such a process


def reopened(converted: Converted, inputs: Mapping[str, Tensor], *, apart: bool) -> Trial:
    """Open the content of a file again, run it, and time it on the first inputs.

    Args:
        converted: content of a file that is no state dict.
        inputs: batches of inputs, [batch, ...] each.
        apart: whether a new process does it, with nothing but the file's own runtime.

    Raises:
        ExportError: the file cannot be opened or run.
    """
    arrays = {name: numpy.ascontiguousarray(batch.cpu().numpy()) for name, batch in inputs.items()}
    threads = torch.get_num_threads()
    if not apart:
        return tried(converted.format, io.BytesIO(converted.content), arrays, threads, weights=converted.weights)
    with tempfile.TemporaryDirectory() as folder:
        file, given, results = (Path(folder) / name for name in ("model", "inputs.npz", "outputs.npz"))
        file = file.with_suffix(SUFFIXES[converted.format])
        write_exported(file, converted)
        numpy.savez(given, allow_pickle=False, **arrays)
        # -P: nothing is imported from the folder of the program, or the current one
        command = [sys.executable, "-P", runtimes.__file__, converted.format, file, given, results, str(threads)]
        process = subprocess.run(
            list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False, timeout=MAX_SECONDS
        )
        if process.returncode:
            reason = (process.stderr.strip().splitlines() or [f"it ended with code {process.returncode}"])[-1]
            raise ExportError(
                f"the {converted.format} file cannot be run in a new process with {RUNTIMES[converted.format]} alone "
                f"({reason[:300]}); nothing was written"
            )
        with numpy.load(results) as arrays_read:
            outputs = {name: arrays_read[name] for name in arrays_read.files}
    return Trial(**{**json.loads(process.stdout.splitlines()[-1]), "outputs": outputs})
