"""Who is trained in a compression, and for how long.

compress.json in the run directory holds the settings, the plan and every candidate that was fine-tuned, so that a
compression that was killed goes on where it stood.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lctprune.config.compression import CompressConfig
from lctprune.errors import NetworkError, RunError
from lctprune.measure.selection import Limits
from lctprune.runs import Run
from lctprune.utils.files import write_json
from lctprune.workflows.compression_costs import Costs
from lctprune.workflows.compression_plan import Passes, Planned, parts_known, plan_record, searched, tuning_passes
from lctprune.workflows.compression_record import read_record
from lctprune.workflows.compression_rounds import (
    Entrant,
    first_entrants,
    first_step,
    scored,
    sizes_to,
    source_of,
    step_after,
)
from lctprune.workflows.loading import LoadedRun

COMPRESSION = "compress.json"
UNIT = "epochs of the main network's training: 3 forward passes of it per training sample"


class Schedule:
    """The plan of a compression, and its rounds: each is recorded when it begins, so that it can be resumed.

    Args:
        run: run directory.
        config: settings.
        costs: what is known of costs before training.
        plan: the plan; that in compress.json, if it is resumed.

    Attributes:
        run: run directory.
        config: settings.
        plan: what is trained for how long; the rounds as far as costs were known.
        limits: the budget in absolute units.
        notes: what was left out and why, for people.

    Raises:
        RunError: compress.json is damaged, or was begun with other settings.
    """

    def __init__(self, run: Run, config: CompressConfig, costs: Costs, plan: list[Planned]) -> None:
        self.config, self._costs = config, costs
        self.run, self.plan, self.limits = run, plan, costs.limits
        self.notes: list[str] = []
        self._rounds: list[list[Entrant]] = []
        self._dropped: list[int] = []  # numbers of exits that cannot be narrowed
        self._begun = self._resumed()

    def _resumed(self) -> dict[str, Any]:
        """Read compress.json, or write the plan; return what does not change in it."""
        path = self.run.path / COMPRESSION
        settings: dict[str, Any] = {
            "config": _plain(dataclasses.asdict(self.config)),
            "budget": dict(self.limits),
            "unit": UNIT,
        }
        if not os.path.lexists(path):
            self._save(begun := {**settings, "plan": plan_record(self.plan)})
            return begun
        recorded = read_record(path)
        if recorded["config"] != settings["config"] or recorded["budget"].keys() != settings["budget"].keys():
            raise RunError(f"{self.run.path} was begun with other settings of the compression; resume with the same")
        self.limits = Limits(recorded["budget"])  # of a latency that was measured then
        self.plan = [Planned(**line) for line in recorded["plan"]]
        self.notes, self._dropped = recorded.pop("notes"), recorded.pop("dropped")
        self._rounds = [[Entrant(**each) for each in entrants] for entrants in recorded.pop("rounds")]
        return recorded

    @property
    def spent(self) -> float:
        """The cost of the training so far, in epochs of the main network's training."""
        before = sum(line.cost for line in self.plan if not line.is_tuning)
        return before + sum(each.cost for each in itertools.chain(*self._rounds))

    @property
    def rounds(self) -> Sequence[Sequence[Entrant]]:
        """The candidates of each round or step that was begun."""
        return self._rounds

    @property
    def last(self) -> Entrant | None:
        """The last training of all, if it was begun."""
        if len(self._rounds) <= len(searched(self.plan)):
            return None
        entrant = self._rounds[-1][0]
        return entrant if entrant.limits is None else None

    def drop(self, entrant: Entrant) -> None:
        """Leave out a candidate that cannot be narrowed; another one takes its place when its round is asked for."""
        self._dropped.append(entrant.exit)

    def round(self, index: int, count: int) -> list[Entrant]:
        """Return the candidates of a round: as they were recorded when it began, without those that were dropped."""
        recorded = self._rounds[index] if index < len(self._rounds) else []
        kept = [each for each in recorded if each.exit not in self._dropped or not each.is_narrowed]
        if kept and kept == recorded:
            return kept
        del self._rounds[index:]
        sources = self._sources(LoadedRun(self.run), index, count)
        share = self.config.divided[2 + index] * self.config.epochs
        timed = self._timed(sources, min(share, self.config.epochs - self.spent))
        folders = {each.folder: each for each in kept}
        return self._recorded([folders.get(each.folder) or each for each in timed])

    def step(
        self, first: int, index: int, *, is_whole: Callable[[Entrant], bool], is_straight: bool = False
    ) -> Entrant:
        """Return a step of the last round, as it was recorded when it began.

        Args:
            first: number of the round.
            index: number of the step, counted on from that of the round.
            is_whole: tells of the first of several steps, by default, whether one step is better.
            is_straight: whether steps do not work, so that the best candidate is trained on as it is.
        """
        if index < len(self._rounds) and not is_straight:
            return self._rounds[index][0]
        del self._rounds[index:]
        loaded = LoadedRun(self.run)
        if index > first and not is_straight:
            entrant = step_after(loaded, self._rounds[-1][0], self._costs, self.limits)
        else:
            (entrant,) = self._sources(loaded, first, 1)
            source = source_of(loaded, self._rounds[:first], entrant)
            if source.is_narrowed and not is_straight:
                sizes = sizes_to(loaded, source, self._costs, self.limits, self.config)
                if len(sizes) > 1:
                    step = first_step(loaded, source, self._costs, sizes)
                    if self.config.steps is not None or not is_whole(step):
                        entrant = step
        steps = 1 if entrant.limits is None else 2 + len(entrant.further)  # this one, and those that follow
        (entrant,) = self._recorded(self._timed([entrant], (self.config.epochs - self.spent) / steps))
        return entrant

    def _sources(self, loaded: LoadedRun, index: int, count: int) -> list[Entrant]:
        """Choose the candidates of a round, by those of the round before it."""
        if index:
            found = scored(loaded, self._rounds[index - 1])[:count]
        else:
            found = first_entrants(loaded, self._costs, self.limits, count, self._dropped)
        if not found:
            raise NetworkError(f"no candidate could be made small enough; {'; '.join(self.notes)}")
        return found

    def _timed(self, entrants: list[Entrant], share: float) -> list[Entrant]:
        """Say how long the candidates of the next round are trained: as long as their share of the compute lasts."""
        fractions = [each.fraction for each in entrants]
        before = [Passes(each.epochs, each.part, each.cost) for each in itertools.chain(*self._rounds)]
        passes = tuning_passes(share, fractions, self.config, known=parts_known(before, self.config.views))
        teacher = (share - passes.passes * sum(fractions)) / len(entrants)
        return [
            each._replace(epochs=passes.epochs, part=passes.part, cost=passes.passes * each.fraction + teacher)
            for each in entrants
        ]

    def _recorded(self, entrants: list[Entrant]) -> list[Entrant]:
        self._rounds.append(entrants)
        self._save(self._begun)
        return entrants

    def _save(self, begun: Mapping[str, Any]) -> None:
        rounds = [[each._asdict() for each in entrants] for entrants in self._rounds]
        state = {"rounds": rounds, "dropped": self._dropped, "notes": self.notes}
        write_json(self.run.path / COMPRESSION, {**begun, **state})


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as JSON reads them back."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
