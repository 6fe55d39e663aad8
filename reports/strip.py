"""Compute the diagram of a network's groups and the exits between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lctprune.config.metric import score_text
from lctprune.measure.candidates import Candidate
from lctprune.measure.selection import main_of
from lctprune.reports.formats import percent


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A group of layers and the exit behind it.

    Attributes:
        group: name of the group.
        exit: name of the network that ends here.
        ending: what follows the group in that network.
        facts: its score and its cost.
        number: number of its candidate.
        in_chosen: whether the group belongs to the chosen network.
        is_chosen: whether the network that ends here is the chosen one.
    """

    group: str
    exit: str
    ending: str
    facts: str
    number: int
    in_chosen: bool
    is_chosen: bool


def strip(candidates: Sequence[Candidate], chosen: Candidate | None) -> list[Stop]:
    """Return the groups of a run's network in order; networks that were added later have no place here.

    Args:
        candidates: candidates of the run.
        chosen: chosen candidate.
    """
    main = main_of(candidates)
    own = sorted((each for each in candidates if not each.origin and not each.is_reduced), key=lambda each: each.exit)
    stops = []
    for number, each in enumerate(own, 1):
        share = f", {percent(each.flops / main.flops, 0)} of the FLOPs" if each.flops and main.flops else ""
        stops.append(
            Stop(
                group=f"group {number}",
                exit=each.name,
                ending="output" if each is main else "critic",
                facts=f"{score_text(each.score, each.metric)}{'' if each is main else share}",
                number=each.exit,
                in_chosen=chosen is not None and not chosen.origin and each.exit <= chosen.exit,
                is_chosen=chosen is not None and each.exit == chosen.exit,
            )
        )
    return stops
