"""EnsembleNetwork: several exits of one network answer together, and the trunk runs once (figure 4b of the paper)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lctprune.errors import NetworkError
from lctprune.network import LocalCriticNetwork


class EnsembleNetwork(nn.Module):
    """The weighted sum of the probabilities of several exits.

    It costs the groups up to the deepest exit and the critics of the exits. Groups and critics are the network's own,
    not copies.

    Args:
        network: trained network whose outputs are logits, [batch, classes].
        exits: numbers of the exits, in ascending order.
        weights: weight of each exit, 0 or more, with the sum 1; by default all the same.

    Raises:
        NetworkError: the exits are not ascending exits of the network, or the weights do not fit them.
    """

    def __init__(
        self, network: LocalCriticNetwork, exits: Sequence[int], weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not exits or list(exits) != sorted(set(exits)) or not 0 <= exits[0] <= exits[-1] < len(network.groups):
            last = len(network.groups) - 1
            raise NetworkError(f"exits are {list(exits)}; they must be ascending numbers of exits, 0 to {last}")
        weights = [1 / len(exits)] * len(exits) if weights is None else list(weights)
        if len(weights) != len(exits) or not all(each >= 0 for each in weights) or abs(sum(weights) - 1) > 1e-4:
            raise NetworkError(f"weights are {weights}; they must be {len(exits)} numbers, 0 or more, with the sum 1")
        firsts = [0, *(exit + 1 for exit in exits)]
        self.stages = nn.ModuleList(
            nn.Sequential(*network.groups[first:end]) for first, end in itertools.pairwise(firsts)
        )
        self.heads = nn.ModuleList(
            network.critics[exit] if exit < len(network.critics) else nn.Identity() for exit in exits
        )
        self.exits = list(exits)
        self.weights = nn.Buffer(torch.tensor(weights))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logarithms of the weighted probabilities, which are logits: their softmax is the probabilities.

        Args:
            x: input, [batch, ...].

        Returns:
            [batch, classes].
        """
        outputs = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            outputs.append(head(x).log_softmax(1))
        together = torch.stack(outputs)  # [exits, batch, classes]
        return (together + self.weights.log()[:, None, None]).logsumexp(0)
