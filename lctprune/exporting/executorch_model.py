"""Convert a program of torch.export to ExecuTorch, by ExecuTorch's own converter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lctprune.exporting.copying import conversion, quiet
from lctprune.exporting.programs import Program


def executorch_bytes(network: nn.Module, program: Program) -> bytes:
    """Return the content of a .pte file: what XNNPACK can do is delegated to it, the rest is done by portable kernels.

    Args:
        network: original, for a message.
        program: the network as `to_program` gives it, with a largest batch: memory is planned for that.

    Raises:
        ExportError: ExecuTorch has no operation for one in the program.
    """
    with conversion(network, "ExecuTorch"), quiet(), torch.no_grad(), _any_batch():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        unchecked = EdgeCompileConfig(_check_ir_validity=False)  # its check makes the batch size of a GRU a constant
        lowered = to_edge_transform_and_lower(
            program.exported, partitioner=[XnnpackPartitioner()], compile_config=unchecked
        )
        return bytes(lowered.to_executorch().buffer)


@contextmanager
def _any_batch() -> Iterator[None]:
    """Keep this machine's algorithms out of the program: some are for fewer than 16 samples, and would narrow it."""
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
        yield
