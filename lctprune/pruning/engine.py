"""Choose the channels that a network loses, by Torch-Pruning's importance, until it is small enough."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.pruning.dependencies import copied, dependencies, groups_of, parts_of, quiet, take_out
from lctprune.pruning.record import number_elements, record_of

COARSE, FINE = 0.05, 0.004  # of all units in a step: until the network fits, and then from the step before
LARGEST_LOSS = 10  # a layer keeps at least every tenth of its channels
Importance = Callable[[Any], Tensor]  # of a group of Torch-Pruning
History = list[tuple[str, bool, list[int]]]  # layer, whether its outputs, channels: each as the steps before left them


def prune(
    network: nn.Module,
    example: Tensor,
    fits: Callable[[nn.Module], bool],
    importance: Importance,
    *,
    kept_whole: Collection[str],
) -> History | None:
    """Choose the least important channels of a network, until it would fit without them.

    Importance is computed anew after each step; steps are small once the network is close to fitting.

    Args:
        network: network on the CPU, with gradients where `importance` needs them; it is not changed.
        example: input, [1, ...].
        fits: tells whether a network is small enough.
        importance: importance of channels, of Torch-Pruning.
        kept_whole: names of the layers that must keep all their channels.

    Returns:
        What is to be taken out, for `recorded`; None where the network does not fit even with the fewest channels.
    """
    history: History = []
    least: dict[str, int] = {}
    with quiet():
        for fraction in (COARSE, FINE):
            own = copied(network)
            graph = dependencies(own, example)
            least = least or _least(_units(graph, kept_whole))
            graph.load_pruning_history(history)
            count = max(1, int(fraction * sum(_units(graph, kept_whole).values())))
            done = -1
            while done < 0 or not fits(own):
                done = len(graph.pruning_history())
                if not _step(graph, importance, kept_whole, least, count):
                    return None
            history = graph.pruning_history()[: done if fraction == COARSE else None]
    return history


def fewest(network: nn.Module, example: Tensor, importance: Importance, *, kept_whole: Collection[str]) -> nn.Module:
    """Return a copy of a network with the fewest channels that `prune` leaves. Arguments are those of `prune`."""
    with quiet():
        own = copied(network)
        graph = dependencies(own, example)
        units = _units(graph, kept_whole)
        while _step(graph, importance, kept_whole, _least(units), sum(units.values())):
            pass  # mostly one step is enough
    return own


def _step(
    graph: Any, importance: Importance, kept_whole: Collection[str], least: Mapping[str, int], count: int
) -> bool:
    """Take out at most `count` units, the least important ones; say whether there were any."""
    scores, places = [], []
    groups = dict(groups_of(graph, kept_whole))
    for name, group in groups.items():
        each = importance(group)
        if each is not None:
            each = each.detach().cpu().view(parts_of(graph, group), -1).mean(0)
            spare = max(0, len(each) - least.get(name, len(each)))
            lowest = each.argsort()[:spare]
            scores.append(each[lowest])
            places += [(name, unit) for unit in lowest.tolist()]
    if not places:
        return False
    taken: dict[str, list[int]] = {}
    for index in torch.cat(scores).argsort()[:count].tolist():
        name, unit = places[index]
        taken.setdefault(name, []).append(unit)
    for name, units in taken.items():
        take_out(graph, groups[name], units)
    return True


def _units(graph: Any, kept_whole: Collection[str]) -> dict[str, int]:
    """Count what can be taken out one by one, of each group by the name of its first layer."""
    return {name: len(group[0].idxs) // parts_of(graph, group) for name, group in groups_of(graph, kept_whole)}


def _least(units: Mapping[str, int]) -> dict[str, int]:
    """Return what each group keeps of its units at least."""
    return {name: -(-count // LARGEST_LOSS) for name, count in units.items()}


def recorded(network: nn.Module, example: Tensor, history: History) -> dict[str, Any]:
    """Describe what pruning takes out of a network, for `apply_record`.

    Args:
        network: network as it was before pruning, on the CPU; it is not changed.
        example: input, [1, ...].
        history: what `prune` returned.

    Raises:
        NetworkError: what is left of a tensor is not a selection of channels.
    """
    own = copied(network)
    own.zero_grad(set_to_none=True)  # it would be pruned along
    with quiet():
        graph = dependencies(own, example)
        number_elements(own)
        graph.load_pruning_history(history)
    return record_of(network, own)
