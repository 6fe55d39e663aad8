"""Compile a program of torch.export ahead of time, by AOTInductor: a package of machine code for this processor."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lctprune.exporting.copying import conversion, quiet
from lctprune.exporting.programs import Program

# the wrapper calls the kernels: optimising it takes longer than all else; kernels are compiled as Inductor does
CHEAP: dict[str, Any] = {
    "aot_inductor.compile_wrapper_opt_level": "O0",
    "aot_inductor.precompile_headers": True,
    "compile_threads": 1,
}


def package_bytes(network: nn.Module, program: Program) -> bytes:
    """Compile a network; return the content of the package, which PyTorch's `aoti_load_package` opens.

    Args:
        network: original, for a message.
        program: the network as `to_program` gives it.

    Raises:
        ExportError: it cannot be compiled.
    """
    from torch import _inductor  # late: it takes a second

    with conversion(network, "Inductor"), quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        settings = {name: value for name, value in CHEAP.items() if name in _inductor.list_options()}
        path = _inductor.aoti_compile_and_package(
            program.exported, package_path=str(Path(folder) / "model.pt2"), inductor_configs=settings
        )
        return Path(path).read_bytes()


def compiled_for() -> str:
    """Name what code compiled here runs on: the version of PyTorch, the system, the processor's instructions."""
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"PyTorch {torch.__version__}, {platform.system()} {platform.machine()}, {instructions}"
