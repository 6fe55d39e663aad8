"""The settings of a network: which model, where it is cut, and which critics it gets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lctprune.config.fields import CRITICS, FIRST, INPUT, NETWORK, require_choices, setting
from lctprune.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

MOST_INPUTS = 2**28  # numbers in one input
ALIASES = {"resnet": "resnet18"}


def is_own_function(name: str) -> bool:
    """Tell whether a name is that of a user's function, `package.module:callable`, so that its use runs user code."""
    return ":" in name


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Settings of a network with critics: which model, where it is cut, and which critics it gets.

    A run records them, to build the same network again. An input is an image, [in_channels, image_size, image_size];
    or with `vocabulary` a sequence of token numbers below it, [steps]; or with `features` a sequence of numbers,
    [steps, features], or without `steps` one vector, [features].

    Raises:
        ConfigError: a value is out of range.
    """

    model: str = setting(
        "resnet18",
        "Name of the network: a built-in or torchvision name (lctprune models lists them), timm/NAME, hf/NAME "
        "(a folder or a name of the Hugging Face hub), or your own package.module:callable.",
    )
    model_args: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "Further arguments of the model, as width=64,layers=2.", "panel": NETWORK},
    )
    groups: int = setting(4, "Number of layer groups, and so of exits. 1 is the plain network.", panel=FIRST)
    split_at: tuple[str, ...] | None = setting(
        None, "End a group after each of these modules, as layer1,layer2; lctprune inspect lists them.", panel=NETWORK
    )
    balance: Literal["flops", "time", "memory"] = setting(
        "flops",
        "What is divided equally among the groups: flops; or time (measured) or memory of a training step, with "
        "critics.",
        panel=NETWORK,
    )
    critic: Literal["auto", "tail", "depthwise", "pooled", "paper", "linear", "normalized"] = setting(
        "auto",
        "Kind of critic: tail, linear, normalized, or, for feature maps only, depthwise, pooled or paper. auto is "
        "depthwise for networks of depthwise convolutions, else tail, and smaller where an exit would cost too much.",
        panel=CRITICS,
    )
    critic_depth: tuple[int, ...] | None = setting(
        None,
        "Depth of the critics: 3x3 convolutions (paper, pooled) or residual blocks per size (tail). One number, or "
        "one per critic, as 3,2,1.",
        panel=CRITICS,
    )
    critic_width: tuple[float, ...] | None = setting(
        None,
        "Factor on the number of channels of the critics. One number, or one per critic, as 1,1,0.5. Default: 1, or "
        "less where an exit would cost too much.",
        panel=CRITICS,
    )
    critic_pool: Literal["mean", "last"] = setting("mean", "How critics of sequences pool the steps.", panel=CRITICS)
    exit: int | None = setting(
        None, "Number of the only exit to keep, as a plain network: its groups and its critic. Default: all exits."
    )
    num_outputs: int = setting(10, "Number of classes, or of predicted numbers.", panel=INPUT)
    in_channels: int = setting(3, "Channels of an image.", panel=INPUT)
    image_size: int = setting(32, "Side of an image in pixels.", panel=INPUT)
    steps: int | None = setting(None, "Length of a sequence.", panel=INPUT)
    features: int | None = setting(None, "Numbers per step of a sequence, or per row of a table.", panel=INPUT)
    vocabulary: int | None = setting(None, "Number of tokens; a sequence then consists of token numbers.", panel=INPUT)
    weights: str | None = setting(None, "Origin of the first weights: a record only, nothing is loaded from there.")
    weights_note: str | None = setting(None, "Names and types that were changed in the first weights: a record only.")
    cuts: tuple[str, ...] | None = setting(
        None,
        "Graph nodes after which the network was cut: a record, which takes precedence over groups, split_at and "
        "balance.",
    )

    cut_point_names: tuple[str, ...] | None = setting(
        None, "Names of the cut points, by which exits are called: a record."
    )
    critic_kinds: tuple[str, ...] | None = setting(
        None, "Kind of each critic that critic=auto chose: a record, which takes precedence over critic."
    )
    pruned: tuple[dict[str, Any], ...] | None = setting(
        None, "Channels that were taken out of the exit, one pruning after the other: a record."
    )
    tracing: tuple[str, ...] | None = setting(
        None, "How the network was traced, and the submodules kept whole: a record, so that it is not compared again."
    )
    architecture: dict[str, Any] | None = setting(
        None, "Configuration of a model of Hugging Face transformers: a record, so that it is not read again."
    )

    def __post_init__(self) -> None:
        require_choices(self)
        object.__setattr__(self, "model", ALIASES.get(self.model, self.model))
        for name in ("groups", "num_outputs", "in_channels", "image_size", "steps", "features", "vocabulary"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        if math.prod(self._shape) > MOST_INPUTS:
            raise ConfigError(f"an input has {'x'.join(map(str, self._shape))} numbers; it may have {MOST_INPUTS}")
        for name in (
            "split_at",
            "critic_depth",
            "critic_width",
            "cuts",
            "cut_point_names",
            "critic_kinds",
            "pruned",
            "tracing",
        ):  # lists, when read back from JSON
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.split_at:
            object.__setattr__(self, "groups", len(self.split_at) + 1)

    @property
    def _shape(self) -> list[int]:
        if self.vocabulary is not None or self.features is not None:
            return [self.steps or 1, 1 if self.vocabulary is not None else self.features or 1]
        return [self.in_channels, self.image_size, self.image_size]

    @property
    def example(self) -> Tensor:
        """A blank input, [1, ...]."""
        import torch  # here, so that the settings can be read without it

        if self.vocabulary is not None:
            return torch.ones(1, self.steps or 1, dtype=torch.long)
        if self.features is not None:
            return torch.ones(1, *([self.steps] if self.steps else []), self.features)
        return torch.zeros(1, self.in_channels, self.image_size, self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, as they stand in a run's config.json."""
        values = dataclasses.asdict(self)
        for name in ("critic_kinds", "cut_point_names", "tracing", "pruned"):
            if not values[name]:  # as in runs from before it was recorded
                del values[name]
        return values
