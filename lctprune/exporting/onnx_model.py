"""Convert a program of torch.export to ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from lctprune.errors import ExportError
from lctprune.exporting.copying import conversion, quiet
from lctprune.exporting.programs import Program

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "input", "output"  # names in the file
LARGEST = 2**31 - 2**20  # bytes that one file may have


def onnx_bytes(network: nn.Module, program: Program, outputs: Sequence[str] = (OUTPUT,)) -> bytes:
    """Return the content of an .onnx file: one input, its outputs, weights inside.

    Args:
        network: original, for messages.
        program: the network as `to_program` gives it.
        outputs: names of the outputs.

    Raises:
        ExportError: it cannot be converted, or is too large for one file.
    """
    with conversion(network, "ONNX"), quiet():
        converted = torch.onnx.export(
            program.exported, dynamo=True, input_names=[INPUT], output_names=[*outputs], verbose=False
        )
        assert converted is not None  # with dynamo
        model = converted.model_proto
        if model.ByteSize() > LARGEST:
            raise ExportError(
                f"the network has {model.ByteSize() / 2**30:.1f} GiB; an ONNX file may have 2 GiB: export another "
                "format; nothing was written"
            )
        _tidy(model, program)
        return bytes(model.SerializeToString())


def _tidy(model: onnx.ModelProto, program: Program) -> None:
    """Name the free sizes of input and outputs, and leave out notes that quote the source code, with its paths."""
    for value, free in ((model.graph.input[0], program.free), *((each, ("batch",)) for each in model.graph.output)):
        sizes = (size for size in value.type.tensor_type.shape.dim if size.dim_param)
        for size, name in zip(sizes, free, strict=False):
            size.dim_param = name
    del model.graph.value_info[:]  # shapes in between, which runtimes find themselves
    parts = [model.graph, *model.functions]
    for part in parts:
        for node in part.node:
            del node.metadata_props[:]
            parts += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        del part.metadata_props[:]
    del model.metadata_props[:]
