"""Who is trained in a compression, and for how long.

compress.json in the run directory holds the settings, the plan and every candidate that was fine-tuned, so that a
compression that was killed goes on where it stood.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from lctprune.config.compression import CompressConfig
from lctprune.errors import NetworkError, RunError
from lctprune.measure.selection import Limits
from lctprune.runs import Run
from lctprune.utils.files import write_json
from lctprune.workflows.compression_costs import Costs
from lctprune.workflows.compression_plan import Passes, Planned, parts_known, plan_record, searched, tuning_passes
from lctprune.workflows.compression_record import read_record
from lctprune.workflows.compression_rounds import Entrant, first_entrants, in_steps, scored, source_of, step_of

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
        plan: what is trained for how long; the rounds as far as costs were known.
        limits: the budget in absolute units.
        notes: what was left out and why, for people.

    Raises:
        RunError: compress.json is damaged, or was begun with other settings.
    """

    def __init__(self, run: Run, config: CompressConfig, costs: Costs, plan: list[Planned]) -> None:
        self._config, self._costs = config, costs
        self.run, self.plan, self.limits = run, plan, costs.limits
        self.notes: list[str] = []
        self._state = self._resumed_state()

    def _resumed_state(self) -> dict[str, Any]:
        """Read compress.json, or write the plan."""
        path = self.run.path / COMPRESSION
        settings = {"config": _plain(dataclasses.asdict(self._config)), "budget": dict(self.limits)}
        if not os.path.lexists(path):
            state = {**settings, "unit": UNIT, "plan": plan_record(self.plan), "rounds": [], "dropped": [], "notes": []}
            write_json(path, state)
            return state
        recorded = read_record(path)
        if recorded["config"] != settings["config"] or recorded["budget"].keys() != settings["budget"].keys():
            raise RunError(f"{self.run.path} was begun with other settings of the compression; resume with the same")
        self.limits = Limits(recorded["budget"])  # of a latency that was measured then
        self.plan = [Planned(**line) for line in recorded["plan"]]
        self.notes = list(recorded["notes"])
        return recorded

    @property
    def spent(self) -> float:
        """The cost of the training so far, in epochs of the main network's training."""
        rounds = [float(each["cost"]) for entrants in self._state["rounds"] for each in entrants]
        return sum(line.cost for line in self.plan if not line.stage.startswith(("round", "step"))) + sum(rounds)

    @property
    def last(self) -> Entrant | None:
        """The last training of all, if it was begun."""
        rounds = self._state["rounds"]
        if len(rounds) <= len(searched(self.plan)):
            return None
        entrant = Entrant(**rounds[-1][0])
        return entrant if entrant.limits is None else None

    def drop(self, entrant: Entrant) -> None:
        """Leave out a candidate that cannot be narrowed; another one takes its place when its round is asked for."""
        self._state["dropped"].append(entrant.exit)

    def round(self, index: int, count: int) -> list[Entrant]:
        """Return the candidates of a round: as they were recorded when it began, without those that were dropped."""
        rounds = self._state["rounds"]
        recorded = [Entrant(**each) for each in rounds[index]] if index < len(rounds) else []
        kept = [each for each in recorded if each.exit not in self._state["dropped"] or not each.is_narrowed]
        if kept and kept == recorded:
            return kept
        if index == 0:
            sources = first_entrants(self.run, self._costs, self.limits, count, self._state["dropped"])
        else:
            sources = scored(self.run, [Entrant(**each) for each in rounds[index - 1]])[:count]
        if not sources:
            raise NetworkError(f"no candidate could be made small enough; {'; '.join(self.notes)}")
        folders = {each.folder: each for each in kept}
        rounds[index:] = []
        share = self._config.divided[2 + index] * self._config.epochs
        timed = self._timed(sources, index, min(share, self._config.epochs - self.spent))
        entrants = [folders.get(each.folder) or each for each in timed]
        rounds.append([each._asdict() for each in entrants])
        self._save()
        return entrants

    def step(self, first: int, index: int, *, is_straight: bool = False) -> Entrant:
        """Return a step of the last round, as it was recorded when it began.

        Args:
            first: number of the round.
            index: number of the step, counted on from that of the round.
            is_straight: whether steps do not work, so that the best candidate is trained on as it is.
        """
        rounds = self._state["rounds"]
        if index < len(rounds) and not is_straight:
            return Entrant(**rounds[index][0])
        rounds[index:] = []
        earlier = [[Entrant(**each) for each in entrants] for entrants in rounds]
        if first:
            best = scored(self.run, earlier[first - 1])[:1]
        else:
            best = first_entrants(self.run, self._costs, self.limits, 1, self._state["dropped"])
        if not best:
            raise NetworkError(f"no candidate could be made small enough; {'; '.join(self.notes)}")
        entrant, left = best[0], 1
        source = source_of(self.run, earlier[:first], entrant)
        sizes = in_steps(self.run, source, self._costs, self.limits, self._config) if source.is_narrowed else []
        if len(sizes) > 1 and not is_straight:
            size, left = sizes[index - first], len(sizes) - (index - first)
            before = earlier[index - 1][0] if index > first else None
            entrant = step_of(self.run, source, before, self._costs, self.limits, size)
        entrant = self._timed([entrant], index, (self._config.epochs - self.spent) / left)[0]
        rounds.append([entrant._asdict()])
        self._save()
        return entrant

    def _timed(self, entrants: list[Entrant], index: int, share: float) -> list[Entrant]:
        """Say how long candidates are trained: as long as their share of the compute lasts."""
        fractions = [each.fraction for each in entrants]
        before = [Entrant(**each) for entrants in self._state["rounds"][:index] for each in entrants]
        known = parts_known([Passes(each.epochs, each.part, each.cost) for each in before], self._config.views)
        passes = tuning_passes(share, fractions, self._config, known=known)
        teacher = (share - passes.passes * sum(fractions)) / len(entrants)
        return [
            each._replace(epochs=passes.epochs, part=passes.part, cost=passes.passes * each.fraction + teacher)
            for each in entrants
        ]

    def _save(self) -> None:
        self._state["notes"] = self.notes
        write_json(self.run.path / COMPRESSION, self._state)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as JSON reads them back."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
