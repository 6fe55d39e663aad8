"""Which channels of a network can be taken out together, by Torch-Pruning's dependency graph.

Fang et al. 2023, DepGraph, arXiv 2301.12900.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lctprune.errors import ConfigError, LctpruneError, NetworkError, first_line
from lctprune.utils.modules import evaluation_mode

RECURRENT = "a recurrent layer, which Torch-Pruning does not prune"


class Prunable(NamedTuple):
    """The channels of a network that can be taken out.

    Attributes:
        kept_whole: names of the layers that must keep all their channels.
        groups: number of groups of layers that can lose channels.
        reason: why the first of the layers in `kept_whole` must; empty if there is none but the last layer.
    """

    kept_whole: frozenset[str]
    groups: int
    reason: str


def require_engine() -> Any:
    """Import Torch-Pruning.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise ConfigError(
            "narrowing needs Torch-Pruning, which is not installed; run pip install 'lctprune[prune]'"
        ) from error
    return torch_pruning


def prunable(network: nn.Module, example: Tensor, name: str) -> Prunable:
    """Find the layers whose channels can be taken out, by taking one out of each on a copy.

    A group of layers keeps all its channels if one of them gives the network's output, if it is recurrent, if the
    layers disagree about the number of channels (as where a shortcut is padded), or if the network does not run without
    one of them (as where a size is a constant of the model's code).

    Args:
        network: network on the CPU; it is not changed.
        example: input, [1, ...].
        name: name of the network, for messages.

    Raises:
        ConfigError: Torch-Pruning is not installed.
        NetworkError: no channel can be taken out.
    """
    recurrent = [f"{_shown(key)}: {RECURRENT}" for key, each in network.named_modules() if isinstance(each, nn.RNNBase)]
    with explained(name, next(iter(recurrent), "")):
        reasons = _inconsistent(network, example)
        error = _trial(network, example, reasons)
        groups = _groups(network, example, reasons)
        if error is not None:
            for root, members in groups.items():
                others = [each for each in groups if each != root]
                if (wrong := _trial(network, example, [*reasons, *others])) is not None:
                    reasons |= dict.fromkeys(members, f"{_shown(root)}: {wrong}")
            error = _trial(network, example, reasons)
        left = [] if error else [root for root in groups if root not in reasons]
    reason = error or next((each for each in reasons.values() if each), "")
    if not left:
        raise NetworkError(f"{name} cannot be narrowed by Torch-Pruning ({reason or 'no layer has channels to spare'})")
    return Prunable(frozenset(reasons), len(left), reason)


def take_out(graph: Any, group: Any, units: Sequence[int]) -> None:
    """Take the same channels out of each part of the root layer, and what depends on them elsewhere."""
    root, parts = group[0].dep, parts_of(graph, group)
    size = len(group[0].idxs) // parts
    channels = sorted(part * size + unit for part in range(parts) for unit in units)
    graph.get_pruning_group(root.target.module, root.handler, channels).prune()


def parts_of(graph: Any, group: Any) -> int:
    """Return the number of equal parts that channels come in: groups of a convolution or norm, heads of attention."""
    parts = [1]
    for dep, _ in group:
        module = dep.target.module
        if isinstance(module, nn.MultiheadAttention):
            parts.append(module.num_heads)
        elif not (isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.out_channels):
            pruner, is_out = graph.get_pruner_of_module(module), graph.is_out_channel_pruning_fn(dep.handler)
            parts.append((pruner.get_out_channel_groups if is_out else pruner.get_in_channel_groups)(module))
    return max(parts)


def dependencies(network: nn.Module, example: Tensor) -> Any:
    """Trace the dependencies of a network, whose parameters must require gradients."""
    with torch.enable_grad():
        return require_engine().DependencyGraph().build_dependency(network, example, verbose=False)


def groups_of(graph: Any, kept_whole: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the groups of layers that lose channels together, each with the name of its first layer."""
    modules = dict(graph.model.named_modules())
    names = {module: name for name, module in modules.items()}
    kept, roots = [modules[each] for each in kept_whole], [nn.modules.conv._ConvNd, nn.Linear]
    for group in graph.get_all_groups(ignored_layers=kept, root_module_types=roots):
        yield names[group[0].dep.target.module], group


def _groups(network: nn.Module, example: Tensor, kept_whole: Collection[str]) -> dict[str, list[str]]:
    """Return the layers that lose channels together, by the first of them."""
    graph = dependencies(copied(network), example)
    return {name: _members(graph, group) for name, group in groups_of(graph, kept_whole)}


def _members(graph: Any, group: Any) -> list[str]:
    """Return the names of the layers whose outputs a group takes channels from."""
    names = {module: name for name, module in graph.model.named_modules()}
    members = [dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
    return [names[each] for each in members if each in names]


def _inconsistent(network: nn.Module, example: Tensor) -> dict[str, str]:
    """Return the layers whose channels cannot go, each with the reason; an empty one for the network's output."""
    graph = dependencies(copied(network), example)
    return {
        member: reason and f"{_shown(name)}: {reason}"
        for name, group in groups_of(graph)
        if (reason := _reason(graph, group)) is not None
        for member in _members(graph, group)
    }


def _reason(graph: Any, group: Any) -> str | None:
    """Say why a group must keep all its channels; None where nothing speaks against taking some out."""
    types = graph.ops.OPTYPE
    is_mapped = any(dep.target.type in _maps(types) for dep, _ in group)
    for dep, channels in group:
        node, is_out = dep.target, graph.is_out_channel_pruning_fn(dep.handler)
        if is_out and not node.outputs:
            return ""  # the network's output
        owner = node.module
        if isinstance(owner, nn.Parameter):
            owner = graph.model.get_submodule(graph._param_to_name[owner].rpartition(".")[0])
        if isinstance(owner, nn.RNNBase):
            return RECURRENT
        size = (graph.get_out_channels if is_out else graph.get_in_channels)(node)
        if size is not None and (max(channels) >= size or (len(set(channels)) != size and not is_mapped)):
            return f"its {len(group[0][1])} channels meet {size} elsewhere"
    return None


def _shown(layer: str) -> str:
    """Return a layer's name without the numbers of the modules around the network's own."""
    return layer.lstrip("0123456789.") or layer


def _maps(types: Any) -> tuple[Any, ...]:
    """Return the kinds of operations behind which there may be more or fewer channels."""
    return types.CONCAT, types.SPLIT, types.UNBIND


def copied(network: nn.Module) -> nn.Module:
    """Copy a network with its gradients; all parameters of the copy require them, as tracing follows autograd."""
    own = copy.deepcopy(network).requires_grad_()
    for parameter, other in zip(own.parameters(), network.parameters(), strict=True):
        parameter.grad = None if other.grad is None else other.grad.clone()
    return own


def _trial(network: nn.Module, example: Tensor, kept_whole: Collection[str]) -> str | None:
    """Take one unit out of each group of a copy and run it; return what goes wrong, or None."""
    own = copied(network)
    with evaluation_mode(own), torch.no_grad():
        expected = own(example).shape
    try:
        graph = dependencies(own, example)
        for _, group in list(groups_of(graph, kept_whole)):
            if len(group[0].idxs) > parts_of(graph, group):
                take_out(graph, group, [0])
        with evaluation_mode(own), torch.no_grad():
            actual = own(example).shape
    except Exception as error:  # whatever the network's own code or the engine raises
        return first_line(error)
    return None if actual == expected else f"the output becomes {list(actual)}, and was {list(expected)}"


@contextmanager
def explained(name: str, reason: str = "") -> Iterator[None]:
    """Turn what the engine or a copy raises into a `NetworkError` of one line, and silence the engine's warnings.

    Args:
        name: name of the network.
        reason: what is known to be the reason; by default what the engine says.
    """
    try:
        with quiet():
            yield
    except LctpruneError:
        raise
    except Exception as error:  # whatever the network's own code or the engine raises
        raise NetworkError(f"{name} cannot be narrowed by Torch-Pruning ({reason or first_line(error)})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the engine's warnings inside the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
