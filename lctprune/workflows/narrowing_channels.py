"""Which channels of an exit are taken out: by one criterion, or by the best of several."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data
from lctprune.losses import default_loss
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
from lctprune.workflows.members import Member

Record = dict[str, Any]  # of `recorded`, with the names of the layers in a network of one group


class Ranking:
    """Ranks the channels of an exit, and takes the least important ones out.

    Args:
        whole: network with all exits, for criteria that need them.
        network: the exit alone, a network of one group.
        member: the exit.
        data: data whose training samples say which channels matter.
        config: settings of the run's training.

    Attributes:
        damage: how much the channels that were taken out have destroyed, see `damage_of`.
    """

    def __init__(
        self, whole: LocalCriticNetwork, network: LocalCriticNetwork, member: Member, data: Data, config: TrainConfig
    ) -> None:
        self._whole, self._network, self._member = whole, network, member
        self._data, self._config, self.damage = data, config, 0.0
        is_here = config.device != "cuda" or torch.cuda.is_available()
        self._device = config.resolved().device if is_here else "cpu"

    def take_out(
        self, importance: Choice, fits: Callable[[nn.Module], bool], *, kept_whole: Collection[str], name: str
    ) -> Record | None:
        """Take channels out of the network, in place, until it fits.

        Of several criteria that counts whose cut destroys least; a note of the network says which.

        Args:
            importance: criterion by which channels are ranked.
            fits: tells whether a network is small enough.
            kept_whole: names of the layers that must keep all their channels.
            name: name of the exit, for messages.

        Returns:
            What was taken out; None, and nothing is, where the network does not fit with the fewest channels.
        """
        criteria = criteria_of(importance)
        found = {
            criterion: record
            for criterion in stepping(criteria, lambda each: f"Ranking channels by {each}", count=len(criteria))
            if (record := self._record(criterion, fits, kept_whole, name)) is not None
        }
        if not found:
            return None
        damages = {criterion: self._damage(record) for criterion, record in found.items()}
        chosen = min(damages, key=lambda criterion: damages[criterion])
        self.damage = damages[chosen]
        if len(criteria) > 1:
            shown = ", ".join(f"{criterion} {damage:.0%}" for criterion, damage in damages.items())
            self._network.notes += (f"channels ranked by {chosen} (loss after the cut, of that of a guess: {shown})",)
        apply_record(self._network, found[chosen])
        return found[chosen]

    def _record(
        self, criterion: Criterion, fits: Callable[[nn.Module], bool], kept_whole: Collection[str], name: str
    ) -> Record | None:
        """Return what a criterion would take out; the network stays as it is."""
        if criterion in WITH_GRADIENTS:
            self._set_gradients(criterion)
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

    def _set_gradients(self, criterion: Criterion) -> None:
        """Set the gradients by which channels are ranked, on the device of training."""
        parts = nn.ModuleList([self._whole, self._network])
        moved(parts, self._device)

        def outputs(inputs: Tensor) -> list[Tensor]:
            exits = self._member.exit + 1
            return self._whole.exits(inputs)[:exits] if criterion == "exits" else [self._network(inputs)]

        loss = default_loss(self._data.train.targets)
        set_gradients(parts, outputs, self._batches(), loss, device=self._device)
        moved(parts, "cpu")

    def _batches(self) -> Any:
        return self._data.train.shuffled(self._config.batch_size, seed=self._config.seed)
