"""Which network to build, where to cut it, and with which critics."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lctprune.config.fields import setting
from lctprune.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

ALIASES = {"resnet": "resnet18"}


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How to build a network with critics: everything that a run must remember of it.

    What goes in is an image of `in_channels` and `image_size`, unless `steps` or `features` are given: then a sequence
    of `steps` token numbers below `vocabulary`, a sequence of `steps` x `features` numbers, or `features` numbers.

    Raises:
        ConfigError: a value is out of range.
    """

    model: str = setting(
        "resnet18",
        "Built-in network, torchvision's (lctprune models lists them), timm/NAME, or package.module:callable.",
    )
    model_args: dict[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"help": "Further arguments of the model, as width=64,layers=2."}
    )
    groups: int = setting(4, "Layer groups: one exit each. 1 is the plain network.")
    split_at: tuple[str, ...] | None = setting(None, "End a group after each of these modules.")
    balance: str = setting(
        "flops",
        "What the cuts balance: flops; time (measured) or memory of a step of training, critics included.",
    )
    critic: str = setting("tail", "Kind of critic: tail, linear, or, for feature maps, pooled or paper.")
    critic_depth: tuple[int, ...] | None = setting(
        None, "Depth of each critic: its 3x3 convolutions (paper, pooled), or residual blocks at each size (tail)."
    )
    critic_width: tuple[float, ...] | None = setting(None, "Factor on the channels of each critic; by default 1.")
    critic_pool: str = setting("mean", "How critics of sequences pool the steps: mean or last.")
    exit: int | None = setting(None, "Of all exits this one alone, as one plain network: its groups and its critic.")
    num_outputs: int = setting(10, "Width of the output: number of classes.")
    in_channels: int = setting(3, "Channels of an image.")
    image_size: int = setting(32, "Side of an image in pixels.")
    steps: int | None = setting(None, "Length of a sequence.")
    features: int | None = setting(None, "Numbers in a step of a sequence, or in a row of a table.")
    vocabulary: int | None = setting(None, "Number of tokens; a sequence is then one of token numbers.")
    weights: str | None = setting(None, "Where its first weights came from: a record, nothing is loaded from there.")
    cuts: tuple[str, ...] | None = setting(None, "Nodes behind which it was cut; a record, and taken before all else.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", ALIASES.get(self.model, self.model))
        for name in ("groups", "num_outputs", "in_channels", "image_size", "steps", "features", "vocabulary"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        for name in ("split_at", "critic_depth", "critic_width", "cuts"):  # lists, when read back from JSON
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.split_at:
            object.__setattr__(self, "groups", len(self.split_at) + 1)

    @property
    def example(self) -> Tensor:
        """One blank input, [1, ...]."""
        import torch  # here, so that the settings can be read without it

        if self.vocabulary is not None:
            return torch.ones(1, self.steps or 1, dtype=torch.long)
        if self.features is not None:
            return torch.ones(1, *([self.steps] if self.steps else []), self.features)
        return torch.zeros(1, self.in_channels, self.image_size, self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a run's config.json."""
        return dataclasses.asdict(self)
