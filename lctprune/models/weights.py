"""Start from weights that a model already has: read a state dict, and load it into a new model."""

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

NESTED = ("state_dict", "model_state_dict", "model")  # keys below which checkpoints keep a model's weights
WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A model's state dict from a file, without trusting it: safetensors, or what `torch.save` wrote, weights only.

    Of a run directory it is the main network's.

    Raises:
        NetworkError: the file is missing, or holds no weights.
    """
    path = Path(path)
    if path.is_dir():
        return _of_main_network(read_weights(path / CHECKPOINT))
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise NetworkError(f"the weights {path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a pickle of other things, whose message recommends to trust it, or a broken file
        refused = type(error).__name__ == "UnpicklingError"
        reason = "it holds other things than tensors, or is broken" if refused else first_line(error, "broken")
        raise NetworkError(
            f"{path} is no file of weights ({reason}); give a state dict, as safetensors or by torch.save"
        ) from error
    content = next((content[key] for key in NESTED if isinstance(content, dict) and key in content), content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise NetworkError(f"{path} holds no state dict, but a {type(content).__name__}; save model.state_dict()")
    return _unwrapped({str(name): tensor for name, tensor in content.items()})


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    num_outputs: int,
    source: str,
    optional: Collection[str] = (),
) -> None:
    """Load a state dict of the same model; a head for another number of classes stays new, with a `NetworkWarning`.

    Args:
        model: gets the weights.
        weights: under the model's own names.
        num_outputs: the model's.
        source: for messages.
        optional: names that may be missing.

    Raises:
        NetworkError: names or shapes do not fit; the model is unchanged.
    """
    own = model.state_dict()
    lacking = own.keys() - weights.keys() - set(optional)
    missing = [name for name in own if name in lacking and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in own]
    other = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    heads = [name for name in own if name in other and _is_head(own[name], weights[name], num_outputs)]
    wrong = [
        f"{name} is {list(weights[name].shape)} there, {list(own[name].shape)} in the network"
        for name in own
        if name in other and name not in heads
    ]
    for problem, names in (("lacks", missing), ("has in addition", unexpected), ("differs in shape:", wrong)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise NetworkError(f"{source} does not fit {type(model).__name__}: it {problem} {shown}")
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name not in heads}, strict=False)
    if heads:
        modules = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in heads))
        warnings.warn(
            f"{source} is for {len(weights[heads[0]])} outputs, not {num_outputs}: {modules} is new",
            NetworkWarning,
            stacklevel=2,
        )


def _is_head(own: Tensor, given: Tensor, num_outputs: int) -> bool:
    return own.dim() > 0 and own.dim() == given.dim() and len(own) == num_outputs and own.shape[1:] == given.shape[1:]


def _of_main_network(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    in_group = re.compile(re.escape(NETWORK_PREFIX) + r"groups\.\d+\.(.+)")
    return {match[1]: tensor for name, tensor in checkpoint.items() if (match := in_group.fullmatch(name))}


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that all names have."""
    while weights and (wrapper := next((each for each in WRAPPERS if all(n.startswith(each) for n in weights)), None)):
        weights = {name.removeprefix(wrapper): tensor for name, tensor in weights.items()}
    return weights
