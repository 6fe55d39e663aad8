"""Read the files that trainers write, without trust: only tensors and plain values, and no object's own code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from lctprune.errors import NetworkError, first_line
from lctprune.models.stand_ins import UnreadableError, load_without_code
from lctprune.utils.files import near_miss, open_regular, read_regular, require_no_bomb

StateDicts = dict[str, dict[str, Tensor]]  # by their keys in the file, such as "state_dict"; "" is the file itself

INDEX = ".index.json"  # end of the name of a file that says which shard holds which tensor
FOLDER_FILES = (f"*.safetensors{INDEX}", f"*.bin{INDEX}", "*model.safetensors", "*model.bin")  # in a folder
MAX_DEPTH = 4  # of dicts in dicts, in which state dicts are looked for
SHOWN = 5  # names in a message
# how files begin that are often taken for weights
_BEGINNINGS = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself: git lfs pull",
    b"<!DOCTYPE": "a web page; download the file itself",
    b"<!doctype": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    b"\x89HDF": "an HDF5 file (Keras?); save model.state_dict() of the PyTorch network",
}
ZIP = b"PK\x03\x04"
GIVE = "give a state dict, saved as safetensors or by torch.save"


def weights_file_in(folder: Path) -> Path | None:
    """Find the file of weights in a folder that a model was saved to, in shards or whole; None if there is none."""
    return next((path for pattern in FOLDER_FILES for path in sorted(folder.glob(pattern))), None)


def read_state_dicts(path: Path) -> StateDicts:
    """Read all state dicts in a file that need not be trusted, at whatever key they stand.

    Args:
        path: safetensors file; file that `torch.save` wrote, now or long ago; or the index of a file in shards.

    Raises:
        NetworkError: the file is missing, broken, or of another kind; calls the system; or contains no state dict, as
            where it is a whole network, whose code would have to run.
    """
    content, passed_over = (_read_shards(path), []) if path.name.endswith(INDEX) else _read_file(path)
    found = dict(_state_dicts(content, set()))
    is_network = any(name.startswith("torch.nn.modules.") for name in passed_over)
    if passed_over and (not found or (is_network and not any("." in name for each in found.values() for name in each))):
        raise _refusal_of_objects(path, passed_over)
    if not found:
        keys = f" ({shown([str(key) for key in content])})" if isinstance(content, Mapping) and content else ""
        raise NetworkError(
            f"{path} contains a {type(content).__name__}, not a state dict{keys}; save model.state_dict()"
        )
    return found


def _read_file(path: Path) -> tuple[Any, list[str]]:
    """Read a file; return its content, and the names of the classes whose objects were passed over."""
    try:
        with open_regular(path, NetworkError) as file:
            start = file.read(32)
            if start.startswith(ZIP):  # otherwise torch.load takes it for a file of old
                require_no_bomb(file)
        known = next((text for beginning, text in _BEGINNINGS.items() if start.startswith(beginning)), None)
        if known:
            raise NetworkError(f"{path} is not a file of weights: it is {known}")
        if path.suffix == ".safetensors" or start[8:9] == b"{":
            return safetensors.torch.load_file(path), []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats; what cannot be read is an error
            return load_without_code(path)
    except NetworkError:
        raise
    except UnreadableError as error:
        raise _refusal_of_objects(path, error.names) from error
    except OSError as error:
        raise NetworkError(f"the weights {path} cannot be read ({error.strerror or error}){near_miss(path)}") from error
    except Exception as error:  # broken, or of another kind
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> NetworkError:
    """Say what the file is, and what to do."""
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
    if "locating file data.pkl" in message:
        return NetworkError(f"{path} is not a file of weights (it is a zip archive of something else); {GIVE}")
    if "Unsupported operand" in message:
        return NetworkError(f"{path} is not a file of weights (it is no pickle of protocol 2); {GIVE}")
    refused = type(error).__name__ == "UnpicklingError"
    reason = "it contains other objects than tensors, or is broken" if refused else first_line(error, "broken")
    return NetworkError(f"{path} is not a file of weights ({reason}); {GIVE}")


def _refusal_of_objects(path: Path, names: Sequence[str]) -> NetworkError:
    """Say which classes a file without a state dict needs, and what to do."""
    modules = any(name.startswith("torch.nn.modules.") for name in names)
    own = [name for name in names if not name.startswith(("torch.", "collections.", "builtins."))]
    return NetworkError(
        f"{path} is not a file of weights alone: it holds {'a whole network, made of ' if modules else ''}"
        f"{shown(own or names)}, whose code would have to run; where you trust it, load it with "
        "torch.load(..., weights_only=False), and save model.state_dict() alone"
    )


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
        content, _ = _read_file(index.parent / shard)
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
