"""Choose the kind and width of critics so that every exit costs less than the next exit and than the main network.

An exit costs the groups up to its cut point, and its critic. The promise of a cut point: its exit costs at most
`SHARE` of the way from the FLOPs up to the cut point to those of the next exit, and has fewer parameters than the next
exit. A critic that breaks it is made narrower, and if that is not enough, of a smaller kind. Where none keeps the
promise, as before a network's last linear layer, an exit that costs at least a little less than the next one will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.critic_blocks import TailBlock
from lctprune.measure.costs import count_known_flops, count_on_the_way, count_parameters
from lctprune.partition.cut_points import CutPoint
from lctprune.partition.cutting import Partition

AUTO = "auto"  # the kind that leaves the choice to this file
SHARE = 0.5  # of the FLOPs between a cut point and the next exit that a critic may take
NARROWER = (0.75, 0.5, 0.375, 0.25, 0.125)  # widths that are tried
NARROWEST = (0.0625, 0.03125)  # of perceptrons, as the last resort: a few hidden features cost less than a linear layer
SMALLEST = "normalized"  # kind of critic where the narrowest is still too large


class CriticSize(NamedTuple):
    """What decides how large a critic is."""

    kind: str
    depth: int | None
    width: float

    def __str__(self) -> str:
        return self.kind if self.width == 1 else f"{self.kind}, {self.width:g} x as wide"


class ExitCost(NamedTuple):
    """What an exit costs: the groups up to it, and its critic."""

    flops: int  # of the operations with a FLOP formula
    parameters: int
    is_partial: bool = False  # whether there are others

    def as_fractions(self, main: ExitCost) -> str:
        """Say what it costs in comparison to the main network."""
        known = "known " if main.is_partial else ""
        flops = f"{self.flops / main.flops:.0%} of the main network's {known}FLOPs and " if main.flops else ""
        return f"{flops}{self.parameters / max(1, main.parameters):.0%} of its parameters"

    def saves_nothing(self, main: ExitCost) -> bool:
        """Tell whether it has at least the main network's FLOPs or parameters."""
        return self.flops >= main.flops > 0 or self.parameters >= main.parameters > 0


MakeCritic = Callable[[CutPoint, CriticSize], nn.Module]


def usual_kind(kind: str, model: nn.Module, shape: Sequence[int]) -> str:
    """Return a critic's kind before it is fitted: for `auto` the one that suits the network.

    Args:
        kind: kind that was asked for.
        model: network to which the critic is attached.
        shape: shape of the critic's input without the batch.
    """
    if kind != AUTO:
        return kind
    return "depthwise" if len(shape) == 3 and has_depthwise_blocks(model) else "tail"


def has_depthwise_blocks(model: nn.Module) -> bool:
    """Tell whether most of a network's convolutions over neighbouring pixels are depthwise."""
    spatial = [each for each in model.modules() if isinstance(each, nn.Conv2d) and max(each.kernel_size) > 1]
    depthwise = [each for each in spatial if each.groups == each.in_channels > 1]
    return 2 * len(depthwise) > len(spatial)


def fitted_sizes(
    partition: Partition, example: Tensor, usual: Sequence[CriticSize], make: MakeCritic, *, may_change: bool
) -> tuple[list[CriticSize], list[str]]:
    """Choose for each exit the largest critic that keeps the promise of its cut point, or else the smallest.

    Args:
        partition: network in groups.
        example: input, [batch, ...].
        usual: size of each critic if its cost did not matter.
        make: function that makes a critic.
        may_change: whether critics may be smaller than usual.

    Returns:
        The size of each critic; and notes for people: a line for each exit that costs no less than the main network,
        and one for all critics that are smaller than usual, save for narrower ones of vectors.
    """
    if not partition.cuts:
        return [], []
    *starts, main = _cumulative_costs(partition.groups, example)
    sizes: list[CriticSize] = []
    notes: list[str] = []
    later = [main]  # what the exits behind cost, the nearest first
    for index in reversed(range(len(usual))):
        start, cut = starts[index], partition.cuts[index]
        size, cost = usual[index], _exit_cost(start, cut, usual[index], make)
        if may_change and not _keeps_promise(cost, start, later):
            size, cost = _smaller(size, start, cut, later, make)
        if cost.saves_nothing(main):
            notes.insert(0, _note_on_dear(index, size, cost, main, may_change=may_change))
        sizes.insert(0, size)
        later.insert(0, cost)
    smaller = [
        (index, size)
        for index, (size, was, cut) in enumerate(zip(sizes, usual, partition.cuts, strict=True))
        if size.kind != was.kind or (size != was and len(cut.shape) > 1)
    ]
    return sizes, [*notes, *([_note_on_smaller(smaller)] if smaller else [])]


def _cumulative_costs(groups: Sequence[nn.Module], example: Tensor) -> list[ExitCost]:
    """Measure what the groups up to each cost, without critics; the last figures are the main network's."""
    costs, total = [], ExitCost(0, 0)
    x = example[:1].detach()
    for group in groups:
        x, count = count_on_the_way(group, x)
        parameters = total.parameters + count_parameters(group)
        total = ExitCost(total.flops + count.known, parameters, total.is_partial or bool(count.unknown))
        costs.append(total)
    return costs


def _exit_cost(start: ExitCost, cut: CutPoint, size: CriticSize, make: MakeCritic) -> ExitCost:
    """Compute what an exit costs; its critic takes no memory and nothing from the random generator."""
    with torch.device("meta"):
        critic = make(cut, size)
        dtype = next((parameter.dtype for parameter in critic.parameters()), None)
        flops = count_known_flops(critic, torch.zeros(1, *cut.shape, dtype=dtype)).known
    return ExitCost(start.flops + flops, start.parameters + count_parameters(critic), start.is_partial)


def _smaller(
    usual: CriticSize, start: ExitCost, cut: CutPoint, later: Sequence[ExitCost], make: MakeCritic
) -> tuple[CriticSize, ExitCost]:
    """Choose the largest critic that keeps the promise; or that saves anything; or else one of the smallest kind."""
    tried = []
    for size in _smaller_and_smaller(usual):
        if _is_too_narrow(size, cut, make):
            continue
        tried.append((size, _exit_cost(start, cut, size, make)))
        if _keeps_promise(tried[-1][1], start, later):
            return tried[-1]
    smallest = tried[-1]
    if len(cut.shape) < 3 and not start.is_partial:
        sizes = [usual._replace(width=width) for width in NARROWEST]
        tried += [(size, _exit_cost(start, cut, size, make)) for size in sizes]
        return next((each for each in tried if not each[1].saves_nothing(later[0])), smallest)
    return smallest


def _is_too_narrow(size: CriticSize, cut: CutPoint, make: MakeCritic) -> bool:
    """Tell whether a tail learns less than a `normalized` critic, which costs less (docs/results/critics.md).

    Such a tail begins with one channel; or is one block, and pools fewer features than it reads and than it returns.
    """
    with torch.device("meta"):
        critic = make(cut, size)
    blocks = [each for each in critic.modules() if isinstance(each, TailBlock)]
    linear = [each for each in critic.modules() if isinstance(each, nn.Linear)][-1:]
    if not blocks or not linear:
        return False
    channels = cut.shape[-1 if cut.channels_last else 0]
    is_poor = linear[0].in_features < min(channels, linear[0].out_features)
    return channels + blocks[0].more_channels < 2 or (len(blocks) == 1 and is_poor)


def _smaller_and_smaller(usual: CriticSize) -> Iterator[CriticSize]:
    for width in NARROWER:
        yield usual._replace(width=width)
    yield CriticSize(SMALLEST, None, 1.0)


def _keeps_promise(cost: ExitCost, start: ExitCost, later: Sequence[ExitCost]) -> bool:
    further = next(
        (each.flops for each in later if each.flops > start.flops), math.inf
    )  # inf: only unknown ones follow
    return cost.flops - start.flops <= SHARE * (further - start.flops) and cost.parameters < later[0].parameters


def _note_on_smaller(smaller: Sequence[tuple[int, CriticSize]]) -> str:
    exits: dict[str, list[str]] = {}
    for index, size in smaller:
        exits.setdefault(str(size), []).append(str(index))
    listed = "; ".join(f"exit {', '.join(numbers)}: {size}" for size, numbers in exits.items())
    return f"smaller critics than usual, so that exits cost less ({listed})"


def _note_on_dear(index: int, size: CriticSize, cost: ExitCost, main: ExitCost, *, may_change: bool) -> str:
    remedy = "ask for fewer groups, or cut earlier" if may_change else "leave out the kind, depth and width of critics"
    return f"exit {index} saves nothing: with its critic ({size}) it costs {cost.as_fractions(main)}; {remedy}"
