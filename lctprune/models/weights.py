"""Start from existing weights: read a state dict from a file or a run, and load it into a new model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lctprune.errors import NetworkError, NetworkWarning, first_line
from lctprune.runs import CHECKPOINT, NETWORK_PREFIX

NESTED = ("state_dict", "model_state_dict", "model")  # keys under which checkpoints keep a model's weights
WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a model's state dict from a file that need not be trusted, or the main network's from a run directory.

    Args:
        path: run directory, safetensors file, or file that `torch.save` wrote, of which only tensors are read.

    Raises:
        NetworkError: the file is missing, or contains no state dict.
    """
    path = Path(path)
    if path.is_dir():
        return _main_network_weights(read_weights(path / CHECKPOINT))
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise NetworkError(f"the weights {path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a pickle of other objects, whose message recommends to trust it, or a broken file
        refused = type(error).__name__ == "UnpicklingError"
        reason = "it contains other objects than tensors, or is broken" if refused else first_line(error, "broken")
        raise NetworkError(
            f"{path} is not a file of weights ({reason}); give a state dict, saved as safetensors or by torch.save"
        ) from error
    content = next((content[key] for key in NESTED if isinstance(content, dict) and key in content), content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise NetworkError(f"{path} contains a {type(content).__name__}, not a state dict; save model.state_dict()")
    return _unwrapped({str(name): tensor for name, tensor in content.items()})


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    num_outputs: int,
    source: str,
    optional: Collection[str] = (),
) -> None:
    """Load a state dict into the same kind of model; a classifier for another number of outputs stays new.

    Args:
        model: network that gets the weights.
        weights: tensors under the model's own names.
        num_outputs: width of the model's output.
        source: description of the weights, for messages.
        optional: names that may be missing from the weights.

    Raises:
        NetworkError: names or shapes do not fit; the model is unchanged.

    Warns:
        NetworkWarning: a classifier stays new.
    """
    own = model.state_dict()
    lacking = own.keys() - weights.keys() - set(optional)
    missing = [name for name in own if name in lacking and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in own]
    other = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    classifier = [name for name in own if name in other and _is_classifier(own[name], weights[name], num_outputs)]
    wrong = [
        f"{name} is {list(weights[name].shape)} there, {list(own[name].shape)} in the network"
        for name in own
        if name in other and name not in classifier
    ]
    for problem, names in (("lacks", missing), ("also has", unexpected), ("differs in shape:", wrong)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise NetworkError(f"{source} does not fit {type(model).__name__}: it {problem} {shown}")
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name not in classifier}, strict=False)
    if classifier:
        modules = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in classifier))
        warnings.warn(
            f"{source} is for {len(weights[classifier[0]])} outputs, not {num_outputs}: {modules} is new",
            NetworkWarning,
            stacklevel=2,
        )


def _is_classifier(own: Tensor, given: Tensor, num_outputs: int) -> bool:
    return own.dim() > 0 and own.dim() == given.dim() and len(own) == num_outputs and own.shape[1:] == given.shape[1:]


def _main_network_weights(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    in_group = re.compile(re.escape(NETWORK_PREFIX) + r"groups\.\d+\.(.+)")
    return {match[1]: tensor for name, tensor in checkpoint.items() if (match := in_group.fullmatch(name))}


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that all names share."""
    while weights and (wrapper := next((each for each in WRAPPERS if all(n.startswith(each) for n in weights)), None)):
        weights = {name.removeprefix(wrapper): tensor for name, tensor in weights.items()}
    return weights
