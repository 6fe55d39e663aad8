"""Critics of runs by earlier versions, which were built otherwise than this version builds them."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from lctprune.critic_blocks import Permute
from lctprune.network import LocalCriticNetwork


def match_saved(network: LocalCriticNetwork, saved: Collection[str]) -> None:
    """Take the normalisation out of critics that were saved without one: the tails of small maps in earlier versions.

    Args:
        network: network with critics as they are made now.
        saved: names in the network's saved state dict.
    """
    for index, critic in enumerate(network.critics):
        prefix = f"critics.{index}."
        names = {name.removeprefix(prefix) for name in saved if name.startswith(prefix)}
        if names and names != critic.state_dict().keys():
            plain = _without_normalization(critic)
            if names == plain.state_dict().keys():
                network.critics[index] = plain


def _without_normalization(critic: nn.Module) -> nn.Module:
    kept = [each for each in critic.children() if not isinstance(each, nn.LayerNorm | nn.BatchNorm2d)]
    if len(kept) == 2 and isinstance(kept[0], Permute):
        return nn.Sequential(kept[0], _without_normalization(kept[1]))
    return nn.Sequential(*kept)
