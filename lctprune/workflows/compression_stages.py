"""The trainings of a compression, one after the other, and its result.

compress.json in the run directory holds the settings, the plan and every candidate that was fine-tuned, so that a
compression that was killed goes on where it stood.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lctprune.config.compression import CompressConfig
from lctprune.data.dataset import Data
from lctprune.data.wrapped_split import PartSplit
from lctprune.errors import BudgetError, ConfigError, NetworkError, NetworkWarning, RunError
from lctprune.measure.candidates import Candidate
from lctprune.measure.choice import select
from lctprune.measure.selection import Limits
from lctprune.network import LocalCriticNetwork
from lctprune.runs import Run
from lctprune.utils.files import write_json
from lctprune.workflows.compression_costs import Costs
from lctprune.workflows.compression_plan import (
    Passes,
    Planned,
    entrants_of,
    parts_known,
    passes_for,
    plan_record,
    tuning_passes,
)
from lctprune.workflows.compression_record import read_record
from lctprune.workflows.compression_rounds import Entrant, begin_entrant, first_entrants, scored
from lctprune.workflows.densification import begin_dense
from lctprune.workflows.deployed import Deployment
from lctprune.workflows.deployment import SELECTED, deploy, measure_run
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import DENSE
from lctprune.workflows.session import Session
from lctprune.workflows.taught import Outputs

COMPRESSION = "compress.json"
UNIT = "epochs of the main network's training: 3 forward passes of it per training sample"


class Stage(NamedTuple):
    """One training of a compression, which is to be taken to its end before the next is asked for.

    Attributes:
        name: name of the stage.
        what: what is trained, for people.
        session: the training.
    """

    name: str
    what: str
    session: Session


class Compressed(NamedTuple):
    """What a compression came to.

    Attributes:
        run: run directory, with all candidates.
        candidates: all candidates, measured on the validation split.
        chosen: the best that fits the budget, which was exported.
        main: the network that was given.
        deployment: exported file, and scores of both on the test split.
        limits: the budget in absolute units.
        spent: cost of all training, in epochs of the main network's training.
    """

    run: Run
    candidates: list[Candidate]
    chosen: Candidate
    main: Candidate
    deployment: Deployment
    limits: Limits
    spent: float


class Compression:
    """A compression that is planned: its trainings one after the other, and its result.

    Args:
        network: network with its critics.
        data: data to train on.
        run: run directory.
        config: settings.
        costs: what is known of costs before training.
        plan: the plan; that in compress.json, if it is resumed.

    Attributes:
        run: run directory.
        plan: what is trained for how long; the rounds as far as costs were known.
        limits: the budget in absolute units.
        notes: what was left out and why, for people.
    """

    def __init__(
        self,
        network: LocalCriticNetwork,
        data: Data,
        run: Run,
        config: CompressConfig,
        costs: Costs,
        plan: list[Planned],
    ) -> None:
        self._network, self._data, self._config, self._costs = network, data, config, costs
        self.run, self.plan, self.limits = run, plan, costs.limits
        self.notes: list[str] = []
        self._state = self._resumed_state()
        self._outputs: Outputs = {}  # of the main network as the teacher of all candidates

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

    def stages(self) -> Iterator[Stage]:
        """Yield the trainings that are left, each to be taken to its end before the next."""
        yield from self._critics()
        yield from self._further_critics()
        for index, count in enumerate(entrants_of(self._config)):
            yield from self._round(index, count)

    def finish(self) -> Compressed:
        """Measure all candidates, choose by validation within the budget, read the test split once, and export."""
        loaded = LoadedRun(self.run, self._data)
        candidates = measure_run(self.run, loaded=loaded)
        chosen = select(candidates, self.limits)
        main = next(each for each in candidates if each.is_main)
        folder = self.run.path / SELECTED
        deployment = deploy(
            self.run, candidates, chosen.exit, folder, budget=self.limits, measure_test=True, loaded=loaded
        )
        return Compressed(self.run, candidates, chosen, main, deployment, self.limits, self.spent)

    @property
    def spent(self) -> float:
        """The cost of the training so far, in epochs of the main network's training."""
        rounds = [float(each["cost"]) for entrants in self._state["rounds"] for each in entrants]
        return sum(line.cost for line in self.plan if not line.stage.startswith("round")) + sum(rounds)

    def _critics(self) -> Iterator[Stage]:
        if self.run.epochs_done < self.run.config.training.epochs:
            part = self.plan[0].passes / self.run.config.training.epochs
            session = Session(self._network, self._part(self._data, part), self.run)
            yield Stage("critics", self.plan[0].what, session)

    def _further_critics(self) -> Iterator[Stage]:
        line = next((line for line in self.plan if line.stage == "densify"), None)
        if line is None:
            return
        folder = self.run.path / DENSE
        done = _opened(folder, self.run)
        if done is not None and done.epochs_done >= done.config.training.epochs:
            return
        passes = passes_for(line.passes, per_pass=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NetworkWarning)  # shown when the run was begun
            session = begin_dense(
                self.run,
                data=self._data,
                epochs=passes.epochs,
                resume=done is not None,
                device=self.run.config.training.device,
            )
        yield Stage("densify", line.what, session._replace(data=self._part(self._data, passes.part)))

    def _round(self, index: int, count: int) -> Iterator[Stage]:
        while (entrant := next(filter(self._is_left, self._entrants(index, count)), None)) is not None:
            resume = _opened(self.run.path / entrant.folder, self.run) is not None
            try:
                session = begin_entrant(
                    self.run, entrant, self.limits, self._data, self._config, self._outputs, resume=resume
                )
            except (NetworkError, ConfigError, BudgetError) as error:  # what cannot be narrowed; others take its place
                self._state["dropped"].append(entrant.exit)
                self.notes.append(f"left out: {error}")
                continue
            assert session.data is not None  # in a process alone
            data = self._part(session.data, entrant.part)
            yield Stage(f"round {index + 1}", entrant.what, session._replace(data=data))

    def _is_left(self, entrant: Entrant) -> bool:
        done = _opened(self.run.path / entrant.folder, self.run)
        return done is None or done.epochs_done < entrant.epochs

    def _entrants(self, index: int, count: int) -> list[Entrant]:
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
        timed = self._timed(sources, index)
        entrants = [folders.get(each.folder) or each for each in timed]
        rounds[index:] = [[each._asdict() for each in entrants]]
        self._save()
        return entrants

    def _timed(self, entrants: list[Entrant], index: int) -> list[Entrant]:
        """Say how long the candidates of a round are trained: by its share, or in the last round by what is left."""
        shares, fractions = self._config.divided[2:], [each.fraction for each in entrants]
        before = [Entrant(**each) for entrants in self._state["rounds"][:index] for each in entrants]
        left = self._config.epochs - self.spent
        share = left if index == len(shares) - 1 else min(left, shares[index] * self._config.epochs)
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

    def _part(self, data: Data, part: float) -> Data:
        """Return data of whose training split an epoch takes a part."""
        split = PartSplit(data.train, min(1.0, part), self.run.config.training.batch_size)
        return dataclasses.replace(data, train=split)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as JSON reads them back."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _opened(folder: Path, run: Run) -> Run | None:
    """Open an added run, if it was begun."""
    try:
        return Run(folder, model=run.model)
    except RunError:
        return None
