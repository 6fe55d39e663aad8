"""Critics of runs by earlier versions, which were built otherwise than this version builds them."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from lctprune.critic_blocks import Permute
from lctprune.network import LocalCriticNetwork


def match_saved(network: LocalCriticNetwork, saved: Collection[str]) -> None:
    """Rebuild critics of small maps as they were saved: without a normalisation, or with one behind the pooling.

    Args:
        network: network with critics as they are made now.
        saved: names in the network's saved state dict.
    """
    for index, critic in enumerate(network.critics):
        prefix = f"critics.{index}."
        names = {name.removeprefix(prefix) for name in saved if name.startswith(prefix)}
        if names and names != critic.state_dict().keys():
            earlier = (_without_normalization(critic), _with_layer_normalization(critic))
            network.critics[index] = next((each for each in earlier if names == each.state_dict().keys()), critic)


def _without_normalization(critic: nn.Module) -> nn.Sequential:
    kept = [each for each in critic.children() if not isinstance(each, nn.LayerNorm | nn.BatchNorm2d)]
    if len(kept) == 2 and isinstance(kept[0], Permute):
        return nn.Sequential(kept[0], _without_normalization(kept[1]))
    return nn.Sequential(*kept)


def _with_layer_normalization(critic: nn.Module) -> nn.Sequential:
    first, *others = critic.children()
    if len(others) == 1 and isinstance(first, Permute):
        return nn.Sequential(first, _with_layer_normalization(others[0]))
    if isinstance(first, nn.BatchNorm2d):
        return nn.Sequential(*others[:-1], nn.LayerNorm(first.num_features), others[-1])
    return nn.Sequential(first, *others)
