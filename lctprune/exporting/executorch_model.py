"""Convert a program of torch.export to ExecuTorch, by ExecuTorch's own converter."""

from __future__ import annotations

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
    # no_grad: else the batch size is narrowed further, by the choice of a convolution's algorithm
    with conversion(network, "ExecuTorch"), quiet(), torch.no_grad():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        unchecked = EdgeCompileConfig(_check_ir_validity=False)  # its check makes the batch size of a GRU a constant
        lowered = to_edge_transform_and_lower(
            program.exported, partitioner=[XnnpackPartitioner()], compile_config=unchecked
        )
        return bytes(lowered.to_executorch().buffer)
