"""What was pruned: the channels that each layer kept, as plain JSON values, and taking all others out of a network.

    {"groups.0.conv1": {"kept": [{"tensors": ["weight"], "dim": 0, "of": 16, "channels": "0-5 7"}],
                        "sizes": {"out_channels": 7}}}

`channels` are the numbers that were kept of `of` in that dimension of the layer's tensors, with ranges; `sizes` are the
layer's own numbers afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.errors import NetworkError

Record = Mapping[str, Mapping[str, Any]]


def number_elements(network: nn.Module) -> None:
    """Replace each parameter and floating-point buffer, in place, by the numbers of its elements, in double precision.

    After pruning they say what was kept; see `record_of`.
    """
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if tensor.is_floating_point():
            numbers = torch.arange(tensor.numel(), dtype=torch.double, device=tensor.device)
            tensor.data = numbers.reshape(tensor.shape)


def record_of(original: nn.Module, numbered: nn.Module) -> dict[str, Any]:
    """Describe what pruning took out of a network.

    Args:
        original: network before pruning.
        numbered: a copy that was treated by `number_elements` and then pruned.

    Raises:
        NetworkError: what is left of a tensor is not a selection of channels.
    """
    record = {}
    after = dict(numbered.named_modules())
    for name, module in original.named_modules():
        kept = _kept(name, module, after[name])
        sizes = {
            attribute: _plain(value)
            for attribute, value in vars(after[name]).items()
            if _is_size(value) and value != vars(module).get(attribute)
        }
        if kept or sizes:
            record[name] = {"kept": kept, "sizes": sizes}
    return record


def apply_record(network: nn.Module, record: Record) -> None:
    """Take out of a network, in place, what a record says was pruned. Nothing is executed but this package's code.

    Args:
        network: network as it was before pruning, on any device.
        record: record from `record_of`.

    Raises:
        NetworkError: the record is not of this network.
    """
    modules = dict(network.named_modules())
    for name, entry in record.items():
        if name not in modules:
            raise NetworkError(f"what was pruned names {name!r}, which the network does not have")
        module = modules[name]
        for selection in entry["kept"]:
            for tensor in selection["tensors"]:
                _select(module, tensor, selection, name)
        for attribute, value in entry["sizes"].items():
            if not _is_size(vars(module).get(attribute)) or not _is_size(_restored(value)):
                raise NetworkError(f"what was pruned says {attribute} is {value!r} in {name}, which is no size there")
            setattr(module, attribute, _restored(value))


def _kept(name: str, before: nn.Module, after: nn.Module) -> list[dict[str, Any]]:
    """Return the selections by which a module's own tensors became smaller."""
    selections: dict[tuple[int, int, str], list[str]] = {}
    now = dict(_own(after))
    for key, tensor in _own(before):
        if tensor.shape == now[key].shape:
            continue
        for dim, kept in enumerate(_indices(now[key], tensor.shape, f"{name}.{key}")):
            if len(kept) != tensor.shape[dim]:
                selections.setdefault((dim, tensor.shape[dim], _ranges(kept)), []).append(key)
    return [
        {"tensors": tensors, "dim": dim, "of": size, "channels": channels}
        for (dim, size, channels), tensors in selections.items()
    ]


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    yield from module.named_buffers(recurse=False, remove_duplicate=False)


def _indices(numbers: Tensor, shape: torch.Size, name: str) -> list[list[int]]:
    """Return the indices that were kept in each dimension of a tensor whose elements are their former numbers."""
    indices, total = [], torch.zeros((), dtype=torch.long)
    if numbers.dim() == len(shape) and numbers.numel():
        rest = numbers.long()
        for dim, size in enumerate(shape):
            stride = shape[dim + 1 :].numel()
            first = rest.movedim(dim, 0).reshape(numbers.shape[dim], -1)[:, 0]
            kept = first // stride % size
            indices.append(kept.tolist())
            total = total.unsqueeze(-1) + kept * stride
        if torch.equal(total, rest):
            return indices
    raise NetworkError(f"what Torch-Pruning left of {name} is no selection of its channels")


def _select(module: nn.Module, tensor: str, selection: Mapping[str, Any], name: str) -> None:
    """Keep a selection of one tensor of a module."""
    value, dim = dict(_own(module)).get(tensor), selection["dim"]
    if value is None or not 0 <= dim < value.dim() or value.shape[dim] != selection["of"]:
        raise NetworkError(f"what was pruned does not fit {name}.{tensor}")
    indices = _numbers(selection["channels"])
    if not indices or max(indices) >= value.shape[dim]:
        raise NetworkError(f"what was pruned keeps channels of {name}.{tensor} that it does not have")
    with torch.no_grad():
        kept = value.index_select(dim, torch.tensor(indices, device=value.device))
    if isinstance(value, nn.Parameter):
        setattr(module, tensor, nn.Parameter(kept, requires_grad=value.requires_grad))
    else:
        setattr(module, tensor, kept)


def _is_size(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _restored(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _ranges(numbers: Sequence[int]) -> str:
    """Write increasing numbers as text with ranges, such as "0-5 7"."""
    parts = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        values = [value for _, value in run]
        parts.append(f"{values[0]}-{values[-1]}" if len(values) > 1 else str(values[0]))
    return " ".join(parts)


def _numbers(ranges: str) -> list[int]:
    """Read what `_ranges` wrote."""
    edges = [part.partition("-") for part in ranges.split()]
    return [number for low, _, high in edges for number in range(int(low), int(high or low) + 1)]
