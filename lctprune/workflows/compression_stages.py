"""The trainings of a compression, one after the other, and its result."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lctprune.data.dataset import Data
from lctprune.data.splits import sample_count
from lctprune.data.wrapped_split import PartSplit
from lctprune.errors import BudgetError, ConfigError, NetworkError, NetworkWarning, RunError
from lctprune.measure.candidates import Candidate
from lctprune.measure.choice import select
from lctprune.measure.selection import Limits
from lctprune.network import LocalCriticNetwork
from lctprune.runs import Run
from lctprune.workflows.compression_plan import passes_for, searched, tuned_passes
from lctprune.workflows.compression_rounds import Entrant, begin_entrant
from lctprune.workflows.compression_schedule import Schedule
from lctprune.workflows.densification import begin_dense
from lctprune.workflows.deployed import Deployment
from lctprune.workflows.deployment import deploy, measure_run
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import DENSE
from lctprune.workflows.model_card import MODEL_CARD, SELECTED
from lctprune.workflows.narrowing import mild_cuts
from lctprune.workflows.narrowing_channels import Damages
from lctprune.workflows.session import Session
from lctprune.workflows.taught import Outputs

MOST_DAMAGE = 0.6  # by a mild cut: a network that loses more is narrowed in one step


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
        schedule: what is trained for how long.

    Attributes:
        run, plan, limits, notes: those of the schedule.
    """

    def __init__(self, network: LocalCriticNetwork, data: Data, schedule: Schedule) -> None:
        self._network, self._data, self._schedule = network, data, schedule
        self.run, self.plan, self.limits, self.notes = schedule.run, schedule.plan, schedule.limits, schedule.notes
        self._outputs: Outputs = {}  # of the main network as the teacher of all candidates
        self._damages: dict[int, Damages] = {}  # by candidates

    def stages(self) -> Iterator[Stage]:
        """Yield the trainings that are left, each to be taken to its end before the next."""
        yield from self._critics()
        yield from self._further_critics()
        counts = searched(self.plan)
        for index, count in enumerate(counts):
            yield from self._round(index, count)
        yield from self._last_round(len(counts))

    @property
    def spent(self) -> float:
        """The cost of the training so far, in epochs of the main network's training."""
        return self._schedule.spent

    @property
    def done(self) -> list[str]:
        """The stages of the plan whose training is done, by their names."""
        before = [line.stage for line in self.plan if not line.is_tuning]
        later = [line.stage for line in self.plan if line.is_tuning]
        dense = _opened(self.run.path / DENSE, self.run)
        is_done = {"critics": self.run.is_finished, "densify": dense is not None and dense.is_finished}
        trained = itertools.takewhile(lambda entrants: not any(map(self._is_left, entrants)), self._schedule.rounds)
        return [stage for stage in before if is_done[stage]] + later[: len(list(trained))]

    @property
    def tuning_steps(self) -> int:
        """The steps of training in which the network that is chosen is fine-tuned."""
        return round(tuned_passes(self.plan) * sample_count(self._data.train) / self.run.config.training.batch_size)

    @property
    def is_finished(self) -> bool:
        """Whether all trainings are done, and a network was exported."""
        last = self._schedule.last
        is_trained = last is not None and not self._is_left(last)
        return is_trained and (self.run.path / SELECTED / MODEL_CARD).exists()

    def finish(self) -> Compressed:
        """Measure all candidates, choose by validation within the budget, read the test split once, and export."""
        loaded = LoadedRun(self.run, self._data)
        candidates = measure_run(self.run, loaded=loaded)
        chosen = select(candidates, self.limits)
        main = next(each for each in candidates if each.is_main)
        folder = self.run.path / SELECTED
        deployment = deploy(
            self.run,
            candidates,
            chosen.exit,
            folder,
            formats=("torchscript", "state-dict"),
            budget=self.limits,
            measure_test=True,
            loaded=loaded,
        )
        return Compressed(self.run, candidates, chosen, main, deployment, self.limits, self.spent)

    def _critics(self) -> Iterator[Stage]:
        if not self.run.is_finished:
            part = self.plan[0].passes / self.run.config.training.epochs
            session = Session(self._network, self._part(self._data, part), self.run)
            yield Stage("critics", self.plan[0].what, session)

    def _further_critics(self) -> Iterator[Stage]:
        line = next((line for line in self.plan if line.stage == "densify"), None)
        if line is None:
            return
        folder = self.run.path / DENSE
        done = _opened(folder, self.run)
        if done is not None and done.is_finished:
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
        while (entrant := next(filter(self._is_left, self._schedule.round(index, count)), None)) is not None:
            if (session := self._begun(entrant)) is None:  # others take its place
                self._schedule.drop(entrant)
                continue
            yield Stage(f"round {index + 1}", entrant.what, session)

    def _last_round(self, first: int) -> Iterator[Stage]:
        """Train the best candidate to its end; if it is narrowed, in steps, each from the network of the one before."""
        for index in itertools.count(first):
            entrant = self._schedule.step(first, index, is_whole=self._is_too_much)
            while self._is_left(entrant):
                if (session := self._begun(entrant)) is None:
                    if first == 0:  # it was not trained before
                        self._schedule.drop(entrant)
                    entrant = self._schedule.step(first, index, is_whole=self._is_too_much, is_straight=True)
                    continue
                is_step = index > first or entrant.limits is not None
                yield Stage(f"step {index - first + 1}" if is_step else f"round {first + 1}", entrant.what, session)
            if entrant.limits is None:
                return

    def _is_too_much(self, entrant: Entrant) -> bool:
        """Tell whether the first of several steps destroys so much that each would need all of the training."""
        loaded, importance = LoadedRun(self.run, self._data), self._schedule.config.importance
        with suppress(NetworkError, ConfigError, BudgetError):  # which beginning it says
            self._damages[entrant.exit] = mild_cuts(loaded, entrant.exit, importance, self._data)
        damage = min(self._damages.get(entrant.exit, {}).values(), default=0.0)
        if damage > MOST_DAMAGE:
            self.notes.append(
                f"{entrant.what}: even a mild cut leaves {damage:.0%} of the loss of a guess, before training, so the "
                "budget is reached in one step of long training instead of several short ones"
            )
        return damage > MOST_DAMAGE

    def _begun(self, entrant: Entrant) -> Session | None:
        """Begin or resume the training of a candidate; of one that cannot be narrowed, note why."""
        resume = _opened(self.run.path / entrant.folder, self.run) is not None
        try:
            session = begin_entrant(
                self.run,
                entrant,
                self.limits,
                self._data,
                self._schedule.config,
                self._outputs,
                resume=resume,
                damages=self._damages.get(entrant.exit),
            )
        except (NetworkError, ConfigError, BudgetError) as error:
            self.notes.append(f"left out: {error}")
            return None
        self.notes += [f"{entrant.what}: {note}" for note in session.network.notes]
        assert session.data is not None  # in a process alone
        return session._replace(data=self._part(session.data, entrant.part))

    def _is_left(self, entrant: Entrant) -> bool:
        done = _opened(self.run.path / entrant.folder, self.run)
        return done is None or done.epochs_done < entrant.epochs

    def _part(self, data: Data, part: float) -> Data:
        """Return data of whose training split an epoch takes a part."""
        split = PartSplit(data.train, min(1.0, part), self.run.config.training.batch_size)
        return dataclasses.replace(data, train=split)


def _opened(folder: Path, run: Run) -> Run | None:
    """Open an added run, if it was begun."""
    try:
        return Run(folder, model=run.model)
    except RunError:
        return None
