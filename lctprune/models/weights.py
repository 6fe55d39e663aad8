"""Start from existing weights: read state dicts from a file or a run, and load one into a new model."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.config.run import CONFIG
from lctprune.errors import NetworkError, NetworkWarning
from lctprune.models.checkpoints import StateDicts, read_state_dicts, shown, weights_file_in
from lctprune.models.images import SMALL_IMAGE
from lctprune.models.weight_names import Fit, fit_names, is_counter
from lctprune.run_files import CHECKPOINT, NETWORK_PREFIX, kept_file, read_config, read_header
from lctprune.utils.wording import counted

STEM = "conv1.weight"  # of torchvision's ResNets
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # weights of one are converted to another


def is_run(path: str | Path) -> bool:
    """Tell whether a path names a run directory, rather than a file or a folder of weights."""
    path = Path(path)
    return path.is_dir() and ((path / CHECKPOINT).exists() or weights_file_in(path) is None)


def read_weights(path: str | Path) -> StateDicts:
    """Read all state dicts of a file that need not be trusted, or the main network's from a run directory.

    Args:
        path: run directory; safetensors file; file that `torch.save` wrote, of which only tensors are read; or shards
            of either: their folder, or their index.

    Returns:
        State dicts by their keys in the file, as "state_dict"; "" for the file itself.

    Raises:
        NetworkError: the file is missing, or contains no state dict.
    """
    path = Path(path)
    if is_run(path):
        is_whole = (path / CONFIG).exists()
        file = kept_file(path, read_config(path).training.keep, read_header(path)) if is_whole else path / CHECKPOINT
        return {"": _main_network_weights(read_state_dicts(file)[""])}
    return read_state_dicts(weights_file_in(path) or path if path.is_dir() else path)


class Loaded(NamedTuple):
    """The weights that were loaded into a model.

    Attributes:
        note: description of what was taken and converted; None where the weights were taken as they are.
        new: names of the parameters that were not among them, those of a classifier.
    """

    note: str | None = None
    new: tuple[str, ...] = ()


def load_weights(
    model: nn.Module,
    found: StateDicts,
    *,
    num_outputs: int,
    source: str,
    optional: Collection[str] = (),
) -> Loaded:
    """Load the state dict that fits into a model; a classifier for another number of outputs stays new.

    Args:
        model: network that gets the weights.
        found: state dicts by their keys in the file, whose names may have prefixes; see `fit_names`.
        num_outputs: width of the model's output.
        source: description of the weights, for messages.
        optional: names that may be missing from the weights.

    Raises:
        NetworkError: names, shapes or types do not fit, or a weight is NaN; the model is unchanged.

    Warns:
        NetworkWarning: a classifier stays new, or names, types or places of the weights are not the network's.
    """
    own = {name: each for name, each in model.state_dict(keep_vars=True).items() if isinstance(each, Tensor)}
    fit = fit_names(found, own, source=source)
    weights = {name: tensor for name, tensor in fit.tensors.items() if name in own or not is_counter(name)}
    missing = _missing(own, weights, optional)
    absent = _absent_classifier(own, missing, num_outputs)
    resized = [name for name in own if name in weights and _is_classifier(own[name], weights[name], num_outputs)]
    _require_names(f"{source} does not fit {type(model).__name__}", own, weights, set(missing) - set(absent), resized)
    taken = {name: weights[name] for name in own if name in weights and name not in resized}
    _require_values(source, own, taken)
    model.load_state_dict(taken, strict=False)
    new = tuple(name for name in own if name in (*absent, *resized))
    if layers := list(dict.fromkeys(name.rpartition(".")[0] for name in new)):
        why = f"is for {len(weights[resized[0]])} outputs, not {num_outputs}" if resized else "has no classifier"
        text = f"{source} {why}: {shown(layers)} is new, starts at zero, and is trained"
        warnings.warn(text, NetworkWarning, stacklevel=2)
    changes = _changes(fit, own, taken)
    if changes:
        warnings.warn(f"{source}: {'; '.join(changes)}", NetworkWarning, stacklevel=2)
    place = [f"taken from {fit.key!r}"] if fit.key and not fit.others else []
    return Loaded("; ".join([*place, *changes]) or None, new)


def _missing(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], optional: Collection[str]) -> list[str]:
    """List the network's tensors that are given under none of their names: one that is tied has several."""
    given = {id(tensor) for name, tensor in own.items() if name in weights}
    return [
        name
        for name, tensor in own.items()
        if id(tensor) not in given and name not in optional and not is_counter(name)
    ]


def _is_classifier(own: Tensor, given: Tensor, num_outputs: int) -> bool:
    is_alike = own.dim() == given.dim() > 0 and own.shape[1:] == given.shape[1:]
    return is_alike and len(own) == num_outputs != len(given)


def _absent_classifier(own: Mapping[str, Tensor], missing: Collection[str], num_outputs: int) -> list[str]:
    """Return the missing names if they are those of the network's last layers, and each gives all outputs."""
    layers: dict[str, list[str]] = {}
    for name in own:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    lost = {name.rpartition(".")[0] for name in missing}
    heads = [name for layer in lost for name in layers[layer]]
    are_last = len(lost) < len(layers) and lost == set([*layers][len(layers) - len(lost) :])
    give_all = all(len(own[name]) == num_outputs for name in heads if own[name].dim())
    return heads if are_last and give_all and set(heads) == set(missing) else []


def _require_names(
    problem: str,
    own: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    missing: Collection[str],
    resized: Collection[str],
) -> None:
    """Refuse weights that lack names, have others, or differ in shape, with the first of each."""
    lacking = [name for name in own if name in missing]
    unexpected = [name for name in weights if name not in own]
    wrong = [
        f"{name} is {list(weights[name].shape)} there, {list(own[name].shape)} in the network"
        for name in own
        if name in weights and name not in resized and own[name].shape != weights[name].shape
    ]
    clauses = []
    if lacking:
        clauses.append(f"it lacks {len(lacking)} of {len(own)} tensors ({shown(lacking)})")
    if unexpected:
        clauses.append(f"has {len(unexpected)} that the network does not have ({shown(unexpected)})")
    if wrong:
        clauses.append(f"differs in {counted(len(wrong), 'shape')} ({shown(wrong, '; ')})")
    if clauses:
        remedy = _of_other_size(own, weights) or "give weights of this network, with the same arguments, or rename them"
        raise NetworkError(f"{problem}: {', and '.join(clauses).removeprefix('it ')}; {remedy}")


def _of_other_size(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Say what to do about weights of a built-in ResNet for images of another size; "" if they are none."""
    stems = [list(each[STEM].shape[2:]) if STEM in each and each[STEM].dim() == 4 else [] for each in (own, weights)]
    if sorted(stems) != [[3, 3], [7, 7]]:
        return ""
    return (
        f"built-in ResNets begin with a 3x3 convolution for images of up to {SMALL_IMAGE} pixels, and with 7x7 for "
        "larger ones: give the size that the weights are for (`image_size`), or a function of your own "
        "that builds the network (package.module:function)"
    )


def _require_values(source: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Refuse weights whose type cannot be converted without loss of meaning, or that are NaN or infinite."""
    kinds = [
        f"{name} is {_kind(given)} there, {_kind(own[name])} in the network"
        for name, given in weights.items()
        if not _is_convertible(given, own[name])
    ]
    if kinds:
        raise NetworkError(
            f"{source} has tensors of other types ({shown(kinds, '; ')}); give weights that are not quantised or packed"
        )
    broken = [name for name, given in weights.items() if not _is_sound(given, own[name])]
    if broken:
        raise NetworkError(f"{source} has NaN or infinite numbers in {shown(broken)}; give an earlier checkpoint")
    names: dict[int, str] = {}
    for name, given in weights.items():
        first = names.setdefault(id(own[name]), name)
        if first != name and not torch.equal(weights[first], given):
            raise NetworkError(
                f"{source} differs in {first} and {name}, which are one tensor in the network; untie them there"
            )


def _kind(tensor: Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f" ({str(tensor.layout).removeprefix('torch.')})"
    return f"{str(tensor.dtype).removeprefix('torch.')}{layout}{' on the meta device' if tensor.is_meta else ''}"


def _is_convertible(given: Tensor, own: Tensor) -> bool:
    if given.layout != own.layout or given.is_quantized != own.is_quantized or (given.is_meta and not own.is_meta):
        return False
    if given.dtype == own.dtype or (given.dtype in FLOATS and own.dtype in FLOATS):
        return True
    is_number = given.dtype.is_complex or own.dtype.is_floating_point or own.dtype.is_complex
    return not is_number and torch.equal(given.to(own.dtype).to(given.dtype), given)


def _is_sound(given: Tensor, own: Tensor) -> bool:
    """Tell whether numbers are finite in the network's type; only a buffer, such as a mask, may be infinite itself."""
    if not (given.is_floating_point() or given.is_complex()) or given.layout != torch.strided:
        return True
    may_be_infinite = given.isinf() if not isinstance(own, nn.Parameter) else torch.zeros((), dtype=torch.bool)
    return bool((given.to(own.dtype).isfinite() | may_be_infinite).all())


def _changes(fit: Fit, own: Mapping[str, Tensor], taken: Mapping[str, Tensor]) -> list[str]:
    """Describe how the weights differ from a state dict of the network itself: place, names, types."""
    changes = []
    if fit.others:
        changes.append(f"taken from {fit.label}, rather than from {shown(fit.others)}, which would fit as well")
    if fit.prefix:
        changes.append(f"names without {fit.prefix!r}")
    if fit.inside:
        changes.append("names without the wrappers inside")
    types = Counter((each.dtype, own[name].dtype) for name, each in taken.items() if each.dtype in FLOATS)
    for (there, here), count in types.items():
        if there != here:
            kinds = f"from {str(there).removeprefix('torch.')} to {str(here).removeprefix('torch.')}"
            changes.append(f"{counted(count, 'tensor')} converted {kinds}")
    if fit.left_out:
        changes.append(f"{counted(len(fit.left_out), 'tensor')} left out ({shown(fit.left_out)})")
    return changes


def _main_network_weights(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    in_group = re.compile(re.escape(NETWORK_PREFIX) + r"groups\.\d+\.(.+)")
    return {match[1]: tensor for name, tensor in checkpoint.items() if (match := in_group.fullmatch(name))}
