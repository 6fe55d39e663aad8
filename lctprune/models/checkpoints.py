"""Read the files that trainers write, without trust: only tensors and plain values, and no object's own code."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy
import safetensors.torch
import torch
from torch import Tensor

from lctprune.errors import NetworkError, first_line
from lctprune.utils.files import read_regular

StateDicts = dict[str, dict[str, Tensor]]  # by their keys in the file, such as "state_dict"; "" is the file itself

INDEX = ".index.json"  # end of the name of a file that says which shard holds which tensor
FOLDER_FILES = (f"*.safetensors{INDEX}", f"*.bin{INDEX}", "*model.safetensors", "*model.bin")  # in a folder
MAX_DEPTH = 4  # of dicts in dicts, in which state dicts are looked for
SHOWN = 5  # names in a message
# what the usual training scripts save beside the weights, options, paths and figures: a `_StandIn` is made of each
STOOD_IN = (
    "argparse.Namespace",
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.dtypes.{name}" for name, kind in vars(numpy.dtypes).items() if isinstance(kind, type)),
)
# how files begin that are often taken for weights
_BEGINNINGS = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself: git lfs pull",
    b"<!DOCTYPE": "a web page; download the file itself",
    b"<!doctype": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    b"\x89HDF": "an HDF5 file (Keras?); save model.state_dict() of the PyTorch network",
}
GIVE = "give a state dict, saved as safetensors or by torch.save"


class _StandIn:
    """An empty object in place of one that is not wanted: none of that class's code runs."""

    def __init__(self, *values: object) -> None:
        """Forget all values."""

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


def weights_file_in(folder: Path) -> Path | None:
    """Find the file of weights in a folder that a model was saved to, in shards or whole; None if there is none."""
    return next((path for pattern in FOLDER_FILES for path in sorted(folder.glob(pattern))), None)


def read_state_dicts(path: Path) -> StateDicts:
    """Read all state dicts in a file that need not be trusted, at whatever key they stand.

    Args:
        path: safetensors file; file that `torch.save` wrote, now or long ago; or the index of a file in shards.

    Raises:
        NetworkError: the file is missing, broken, or of another kind; holds objects whose code would have to run; or
            contains no state dict.
    """
    if path.name.endswith(INDEX):
        content: Any = _read_shards(path)
    else:
        content = _read_file(path)
    found = dict(_state_dicts(content, set()))
    if not found:
        keys = f" ({shown([str(key) for key in content])})" if isinstance(content, Mapping) and content else ""
        raise NetworkError(
            f"{path} contains a {type(content).__name__}, not a state dict{keys}; save model.state_dict()"
        )
    return found


def _read_file(path: Path) -> Any:
    try:
        if not path.is_file():
            path.stat()
            raise NetworkError(f"the weights {path} cannot be read (it is no regular file); {GIVE}")
        with path.open("rb") as file:
            start = file.read(32)
        known = next((text for beginning, text in _BEGINNINGS.items() if start.startswith(beginning)), None)
        if known:
            raise NetworkError(f"{path} is not a file of weights: it is {known}")
        if path.suffix == ".safetensors" or start[8:9] == b"{":
            return safetensors.torch.load_file(path)
        with _stand_ins(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats; what cannot be read is an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except NetworkError:
        raise
    except OSError as error:
        raise NetworkError(f"the weights {path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a pickle of other objects, whose message recommends to trust it, or a broken file
        raise _refusal(path, error) from error


def _stand_ins() -> AbstractContextManager[object]:
    """Let PyTorch's restricted reader pass over objects of the classes `STOOD_IN`."""
    return torch.serialization.safe_globals([(_StandIn, name) for name in STOOD_IN])


def _refusal(path: Path, error: Exception) -> NetworkError:
    """Say what the file is, or which classes it needs, and what to do."""
    message = str(error)
    if "TorchScript" in message:
        return NetworkError(
            f"{path} is a TorchScript file; save its weights: "
            f'torch.save(torch.jit.load("{path.name}").state_dict(), "weights.pt")'
        )
    if "ExportedProgram" in message or path.suffix == ".pt2":
        return NetworkError(
            f"{path} is a file of torch.export; save its weights: "
            f'torch.save(torch.export.load("{path.name}").state_dict, "weights.pt")'
        )
    if classes := _unknown_classes(path, message):
        modules = any(name.startswith("torch.nn.modules.") for name in classes)
        own = [name for name in classes if not name.startswith(("torch.", "collections.", "builtins."))]
        return NetworkError(
            f"{path} is not a file of weights alone: it holds {'a whole network, made of ' if modules else ''}"
            f"{shown(own or classes)}, whose code would have to run; where you trust it, load it with "
            "torch.load(..., weights_only=False), and save model.state_dict() alone"
        )
    if "locating file data.pkl" in message:
        return NetworkError(f"{path} is not a file of weights (it is a zip archive of something else); {GIVE}")
    refused = type(error).__name__ == "UnpicklingError"
    reason = "it contains other objects than tensors, or is broken" if refused else first_line(error, "broken")
    return NetworkError(f"{path} is not a file of weights ({reason}); {GIVE}")


def _unknown_classes(path: Path, message: str) -> list[str]:
    """Name the classes and functions in a file of `torch.save` that its restricted reader does not know."""
    with suppress(Exception), _stand_ins():
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return re.findall(r"GLOBAL (\S+) was not an allowed global", message)  # in the format before PyTorch 1.6


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Read the tensors of all shards that an index names, which lie beside it."""
    try:
        document = json.loads(read_regular(index, NetworkError))
        shards = {str(name): str(shard) for name, shard in document["weight_map"].items()}
    except OSError as error:
        raise NetworkError(f"the weights {index} cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NetworkError(f"{index} is not an index of shards (it needs a weight_map); {GIVE}") from error
    tensors: dict[str, Tensor] = {}
    for shard in dict.fromkeys(shards.values()):
        if shard != Path(shard).name:
            raise NetworkError(f"{index} names the shard {shard}; shards must lie beside the index")
        content = _read_file(index.parent / shard)
        names = [name for name, where in shards.items() if where == shard]
        if not isinstance(content, Mapping) or (lost := [name for name in names if name not in content]):
            raise NetworkError(f"{index.parent / shard} lacks {shown(lost)}, which {index.name} says it holds")
        tensors |= {name: content[name] for name in names}
    return tensors


def _state_dicts(
    content: Any, seen: set[int], key: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or id(content) in seen or depth > MAX_DEPTH:
        return
    seen.add(id(content))
    tensors = {name: value.detach() for name, value in content.items() if _is_named_tensor(name, value)}
    if tensors:
        yield key, tensors
    for name, value in content.items():
        yield from _state_dicts(value, seen, f"{key}.{name}" if key else str(name), depth + 1)


def _is_named_tensor(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def shown(names: Sequence[str], separator: str = ", ") -> str:
    """Join the first names of a list, and count the others."""
    return separator.join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
