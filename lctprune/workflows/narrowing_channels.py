"""Which channels of an exit are taken out: by one criterion, or by the best of several."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data
from lctprune.losses import default_loss
from lctprune.measure.unscored import unscored
from lctprune.network import LocalCriticNetwork
from lctprune.pruning.dependencies import explained
from lctprune.pruning.engine import prune, recorded
from lctprune.pruning.importance import (
    WITH_GRADIENTS,
    Choice,
    Criterion,
    criteria_of,
    damage_of,
    importance_of,
    set_gradients,
)
from lctprune.pruning.record import apply_record
from lctprune.utils.modules import moved
from lctprune.utils.steps import stepping
from lctprune.workflows.compression_plan import fraction_of
from lctprune.workflows.members import Member

MILD = 0.6  # of the FLOPs of a network, to which cuts are tried
Fits = Callable[[nn.Module], bool]
Record = dict[str, Any]  # of `recorded`, with the names of the layers in a network of one group
Damages = dict[Criterion, float]  # see `Ranking.damages`


def best(damages: Mapping[Criterion, float]) -> Criterion:
    """Return the criterion whose cut destroys least."""
    return min(damages, key=lambda criterion: damages[criterion])


class Ranking:
    """Ranks the channels of an exit, and takes the least important ones out.

    Args:
        whole: network with all exits, for criteria that need them.
        network: the exit alone, a network of one group.
        member: the exit.
        data: data whose training samples say which channels matter.
        config: settings of the run's training.
    """

    def __init__(
        self, whole: LocalCriticNetwork, network: LocalCriticNetwork, member: Member, data: Data, config: TrainConfig
    ) -> None:
        self._whole, self._network, self._member = whole, network, member
        self._data, self._config = data, config
        is_here = config.device != "cuda" or torch.cuda.is_available()
        self._device = config.resolved().device if is_here else "cpu"
        self._gradients: dict[Criterion, list[Tensor | None]] = {}  # of the network as it was given

    def take_out(
        self,
        importance: Choice,
        fits: Fits,
        *,
        kept_whole: Collection[str],
        name: str,
        damages: Damages | None = None,
    ) -> Record | None:
        """Take channels out of the network, in place, until it fits.

        Args:
            importance: criterion by which channels are ranked, or auto for `best`, which a note of the network names.
            fits: tells whether a network is small enough.
            kept_whole: names of the layers that must keep all their channels.
            name: name of the exit, for messages.
            damages: what `damages` found out, if it was asked before.

        Returns:
            What was taken out; None, and nothing is, where the network does not fit with the fewest channels.
        """
        criteria, damages = criteria_of(importance), damages or {}
        if len(criteria) > 1 and not damages:
            damages = self.damages(importance, fits, kept_whole=kept_whole, name=name)
        chosen = best(damages) if damages else criteria[0]
        record = self._record(chosen, fits, kept_whole, name)
        if record is not None:
            apply_record(self._network, record)
        if damages:
            others = "".join(f", by {each} {value:.0%}" for each, value in damages.items() if each != chosen)
            own = f"a trial cut leaves {damages[chosen]:.0%} of the loss of guessing"
            self._network.notes += (f"channels ranked by {chosen}: {own}{others}",)
        return record

    def damages(self, importance: Choice, fits: Fits, *, kept_whole: Collection[str], name: str) -> Damages:
        """Say how much a mild cut destroys by each criterion, see `damage_of`: to `MILD`, or less where that fits.

        After a large cut nothing may be left, by a good criterion too. Arguments are those of `take_out`.
        """
        example, criteria = self._data.example[:1], criteria_of(importance)
        own = unscored(self._network.groups[0], example)

        def is_mild(network: nn.Module) -> bool:
            return fraction_of(unscored(network, example), own) <= MILD or fits(network)

        ranked = stepping(criteria, lambda each: f"Ranking channels by {each}", count=len(criteria))
        records = {criterion: self._record(criterion, is_mild, kept_whole, name) for criterion in ranked}
        return {criterion: self._damage(record) for criterion, record in records.items() if record is not None}

    def _record(self, criterion: Criterion, fits: Fits, kept_whole: Collection[str], name: str) -> Record | None:
        """Return what a criterion would take out; the network stays as it is."""
        if criterion in WITH_GRADIENTS:
            for parameter, gradient in zip(self._network.parameters(), self._gradients_by(criterion), strict=True):
                parameter.grad = gradient
        main, example = self._network.groups[0], self._data.example[:1]
        with explained(name):
            history = prune(main, example, fits, importance_of(criterion), kept_whole=kept_whole)
            record = recorded(main, example, history) if history else None
        self._network.zero_grad(set_to_none=True)
        return record and {f"groups.0.{layer}": entry for layer, entry in record.items()}

    def _damage(self, record: Record) -> float:
        own = copy.deepcopy(self._network)
        apply_record(own, record)
        loss = default_loss(self._data.train.targets)
        return damage_of(moved(own, self._device), self._batches(), loss, device=self._device)

    def _gradients_by(self, criterion: Criterion) -> list[Tensor | None]:
        """Return the gradients of the network's parameters by which channels are ranked, computed once."""
        if criterion in self._gradients:
            return self._gradients[criterion]
        parts = nn.ModuleList([self._whole, self._network])
        moved(parts, self._device)

        def outputs(inputs: Tensor) -> list[Tensor]:
            exits = self._member.exit + 1
            return self._whole.exits(inputs)[:exits] if criterion == "exits" else [self._network(inputs)]

        loss = default_loss(self._data.train.targets)
        set_gradients(parts, outputs, self._batches(), loss, device=self._device)
        moved(parts, "cpu")
        return self._gradients.setdefault(criterion, [each.grad for each in self._network.parameters()])

    def _batches(self) -> Any:
        return self._data.train.shuffled(self._config.batch_size, seed=self._config.seed)
