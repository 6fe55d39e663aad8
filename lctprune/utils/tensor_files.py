"""Write tensors as safetensors, one at a time, so that a checkpoint takes no second copy of the network in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lctprune.utils.files import write_atomically

# names of types in the format: https://github.com/huggingface/safetensors#format
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8  # bytes


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically; no more than one tensor is copied at a time.

    Args:
        path: output file.
        tensors: tensors on any device, in any order in memory; they may share memory.
        metadata: texts by name.

    Raises:
        OSError: the file cannot be written.
        TypeError: a tensor has a type that the format does not have, such as complex128.
    """
    write_atomically(path, tensor_chunks(tensors, metadata))


def tensor_chunks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Return the content of a safetensors file in parts; arguments and errors are those of `write_tensors`."""
    # larger types first, so that every tensor is aligned
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, tensor in ordered.items():
        if tensor.dtype not in TYPES:
            raise TypeError(f"the tensor {name} is {tensor.dtype}, which safetensors files do not have")
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    return _chunks(json.dumps(header).encode(), ordered)


def _chunks(header: bytes, tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    header += b" " * (-len(header) % ALIGNMENT)
    yield len(header).to_bytes(8, "little") + header
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().flatten()
        yield (torch.view_as_real(flat) if flat.is_complex() else flat).view(torch.uint8).numpy().data
