"""Open an exported file from its content, for predictions; nothing in it that needs pickle is loaded."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import torch
from torch import Tensor

from lctprune.errors import ConfigError, ExportError, first_line
from lctprune.exporting.copying import quiet
from lctprune.exporting.formats import Format, require_extra
from lctprune.exporting.inductor_package import compiled_for
from lctprune.exporting.runtimes import opened
from lctprune.utils.files import require_no_bomb

# members of an archive that torch.export writes for tensors and a graph; others are pickled objects, or machine code
_PLAIN = re.compile(
    r"data/(weights|constants)/((weight|tensor)_\d+|model_(weights|constants)_config\.json)|models/model\.json"
    r"|data/sample_inputs/model\.pt|archive_format|archive_version|version|byteorder|\.data/\w+"
)
_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # of torch.load, also where torch.export calls it


def open_exported(
    format: Format, content: bytes, path: Path, *, weights: bytes | None = None
) -> Callable[[Tensor], Tensor]:
    """Open an exported file in its own runtime, on the CPU.

    Args:
        format: torchscript, pt2, onnx, openvino, executorch, or aoti, whose machine code this process loads then.
        content: content of the file.
        path: the file, for messages.
        weights: content of OpenVINO's second file.

    Returns:
        Function from inputs to outputs, [batch, ...].

    Raises:
        ConfigError: the runtime is not installed.
        ExportError: the file cannot be opened, or holds pickled objects.
    """
    require_extra(format)
    try:
        if format in ("pt2", "torchscript", "aoti"):
            require_no_bomb(io.BytesIO(content))
        if format == "pt2":
            _require_plain(content)
        with quiet(), _tensors_only():
            run = opened(format, io.BytesIO(content), torch.get_num_threads(), weights=weights)
    except Exception as error:  # whatever the runtime raises
        raise ExportError(
            f"{path} cannot be opened as {format} ({first_line(error)[:200]}); export it again"
        ) from error
    return lambda inputs: torch.from_numpy(run(numpy.ascontiguousarray(inputs.numpy())))


def require_own_code(path: Path, made_for: str | None, *, trust_code: bool) -> None:
    """Require machine code that the user trusts, and that was compiled for this machine.

    Args:
        path: the file, for messages.
        made_for: what it was compiled for, as `compiled_for` says it.
        trust_code: whether the user trusts it.

    Raises:
        ConfigError: one of both is not so.
    """
    if not trust_code:
        raise ConfigError(
            f"{path} is machine code, which could do anything that you may do; if you made it, give "
            "`trust_code=True`; else predict a file of another format, or the run"
        )
    if made_for != (here := compiled_for()):
        raise ConfigError(f"{path} was compiled for {made_for}, and this is {here}; export it again here")


def _require_plain(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if not _PLAIN.fullmatch(name.partition("/")[2]):
                raise ExportError(f"it holds {name[:80]!r}, which is neither a tensor nor a graph")


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Let torch.load read tensors only, inside the block."""
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WEIGHTS_ONLY]
        else:
            os.environ[_WEIGHTS_ONLY] = before
