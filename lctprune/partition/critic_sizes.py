"""Choose the kind and width of critics so that every exit costs less than the next exit and than the main network.

An exit costs the groups up to its cut point, and its critic. The promise of a cut point: its exit costs at most
`SHARE` of the way from the FLOPs up to the cut point to those of the next exit, and has fewer parameters than the next
exit. A critic that breaks it is made narrower, and if that is not enough, of a smaller kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lctprune.measure.costs import count_known_flops, count_parameters
from lctprune.partition.cut_points import CutPoint
from lctprune.utils.modules import evaluation_mode

AUTO = "auto"  # the kind that leaves the choice to this file
SHARE = 0.5  # of the FLOPs between a cut point and the next exit that a critic may take
NARROWER = (0.75, 0.5, 0.375, 0.25, 0.125)  # widths that are tried
SMALLEST = "normalized"  # kind of critic where the narrowest is still too large


class CriticSize(NamedTuple):
    """What decides how large a critic is."""

    kind: str
    depth: int | None
    width: float

    def __str__(self) -> str:
        return self.kind if self.width == 1 else f"{self.kind}, {self.width:g} x as wide"


class ExitCost(NamedTuple):
    """What an exit costs: the groups up to it and its critic; FLOPs of operations with a known formula."""

    flops: int
    parameters: int

    def as_fractions(self, main: ExitCost) -> str:
        """Say what it costs in comparison to the main network."""
        flops = f"{self.flops / main.flops:.0%} of the main network's FLOPs and " if main.flops else ""
        return f"{flops}{self.parameters / max(1, main.parameters):.0%} of its parameters"


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


def cumulative_costs(groups: Sequence[nn.Module], example: Tensor) -> list[ExitCost]:
    """Measure what the groups up to each cost, without critics; the last figures are the main network's."""
    costs, flops, parameters = [], 0, 0
    x = example[:1].detach()
    for group in groups:
        flops += count_known_flops(group, x).known
        parameters += count_parameters(group)
        costs.append(ExitCost(flops, parameters))
        with evaluation_mode(group), torch.no_grad():
            x = group(x)
    return costs


def exit_cost(before: ExitCost, cut: CutPoint, size: CriticSize, make: MakeCritic) -> ExitCost:
    """Compute what an exit costs; its critic takes no memory and nothing from the random generator.

    Args:
        before: costs up to the cut point.
        cut: cut point.
        size: size of the critic.
        make: function that makes a critic.
    """
    with torch.device("meta"):
        critic = make(cut, size)
        dtype = next((parameter.dtype for parameter in critic.parameters()), None)
        flops = count_known_flops(critic, torch.zeros(1, *cut.shape, dtype=dtype)).known
    return ExitCost(before.flops + flops, before.parameters + count_parameters(critic))


def fitted_sizes(
    costs: Sequence[ExitCost], cuts: Sequence[CutPoint], usual: Sequence[CriticSize], make: MakeCritic
) -> list[CriticSize]:
    """Choose for each exit the largest critic that keeps the promise of its cut point, or else the smallest.

    Args:
        costs: costs up to each cut point, and of the main network.
        cuts: cut points.
        usual: size of each critic if its cost did not matter.
        make: function that makes a critic.
    """
    *starts, main = costs
    sizes: list[CriticSize] = []
    later = [main]  # what the exits behind cost, the nearest first
    for cut, wanted, start in zip(reversed(cuts), reversed(usual), reversed(starts), strict=True):
        for size in _smaller_and_smaller(wanted):
            cost = exit_cost(start, cut, size, make)
            if _keeps_promise(cost, start, later):
                break
        sizes.insert(0, size)
        later.insert(0, cost)
    return sizes


def _smaller_and_smaller(usual: CriticSize) -> Iterator[CriticSize]:
    yield usual
    for width in NARROWER:
        yield usual._replace(width=width)
    yield CriticSize(SMALLEST, None, 1.0)


def _keeps_promise(cost: ExitCost, start: ExitCost, later: Sequence[ExitCost]) -> bool:
    further = next(
        (each.flops for each in later if each.flops > start.flops), math.inf
    )  # inf: only unknown ones follow
    return cost.flops - start.flops <= SHARE * (further - start.flops) and cost.parameters < later[0].parameters


def notes_on_smaller(
    costs: Sequence[ExitCost],
    cuts: Sequence[CutPoint],
    usual: Sequence[CriticSize],
    sizes: Sequence[CriticSize],
    make: MakeCritic,
) -> Iterator[str]:
    """Say in one line for each critic that is smaller than usual what its exit costs now, and would cost otherwise."""
    *starts, main = costs
    for index, (start, cut, wanted, size) in enumerate(zip(starts, cuts, usual, sizes, strict=True)):
        if size != wanted:
            now, otherwise = (exit_cost(start, cut, each, make).as_fractions(main) for each in (size, wanted))
            yield (
                f"exit {index} gets a smaller critic ({size}) and costs {now}; with the usual one ({wanted}) it would "
                f"cost {otherwise}"
            )


def notes_on_dear(
    costs: Sequence[ExitCost], cuts: Sequence[CutPoint], sizes: Sequence[CriticSize], make: MakeCritic
) -> Iterator[str]:
    """Say in one line for each exit with at least the main network's FLOPs or parameters what it costs."""
    *starts, main = costs
    for index, (start, cut, size) in enumerate(zip(starts, cuts, sizes, strict=True)):
        cost = exit_cost(start, cut, size, make)
        if (cost.flops >= main.flops > 0) or cost.parameters >= main.parameters > 0:
            yield (
                f"exit {index} saves nothing: with its critic ({size}) it costs {cost.as_fractions(main)}; let the "
                "critic be chosen (auto), make it narrower, or cut elsewhere"
            )
