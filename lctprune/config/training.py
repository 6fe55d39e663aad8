"""The settings of training: as they are given, and as they are resolved for one machine and one network."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lctprune.config.fields import CRITICS, FIRST, NETWORK, TRAINING, require_choices, setting
from lctprune.config.long_training import LongTraining
from lctprune.config.metric import AUTO, parse_metric
from lctprune.config.precision import autocast, fast_precision
from lctprune.config.ramp import Ramp
from lctprune.errors import ConfigError

if TYPE_CHECKING:
    import torch

Method = Literal["auto", "local-critic", "joint", "backprop"]
LOCAL = ("matching", "distill", "critic_period", "diagnostics", "blocks")  # settings of local critics alone
DEFAULT_LR = {"muon": 0.02, "sgd": 0.2, "adamw": 1e-3}
FINETUNING_LR = {"muon": 1e-4, "sgd": 3e-4, "adamw": 1e-4}  # of a trained network (docs/results/trained-networks.md)
NEW_PART_LR = {"muon": 0.02, "sgd": 0.01, "adamw": 3e-3}  # of critics and a classifier beside it


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LongTraining):
    """Settings of a training run, as the user gives them; `resolved` replaces every `auto`.

    Raises:
        ConfigError: a value is out of range.
    """

    method: Method = setting(
        "auto",
        "joint (gradients of all exits run through the whole network: deep supervision), local-critic (no gradient "
        "crosses from group to group), backprop (the plain network without critics), or auto: joint in one process, "
        "local-critic in several and with --freeze-main or options that only local critics have.",
        panel=FIRST,
    )
    epochs: int = setting(
        10, "Passes over the training split. 0 only measures the network that --weights gives.", panel=FIRST
    )
    batch_size: int = setting(64, "Samples per step.", panel=FIRST)
    optimizer: Literal["auto", "muon", "sgd", "adamw"] = setting(
        "auto",
        "sgd, adamw, muon (orthogonal updates of convolutions, SGD for the rest), or auto: adamw for weights that were "
        "trained before, muon for other convolutional networks, adamw for all others.",
        panel=TRAINING,
    )
    lr: float | None = setting(
        None,
        "Peak learning rate. Default: 0.02 for muon (20 times that for its SGD part, less for wide linear layers), "
        "0.2 for sgd, 0.001 for adamw; with --weights 0.0001 (sgd: 0.0003), but with --freeze-main as without.",
        panel=FIRST,
    )
    momentum: float = setting(0.9, "Nesterov momentum of sgd and muon.", panel=TRAINING)
    weight_decay: float = setting(
        5e-4,
        "Weight decay of weights; biases and normalisation have none. Muon's convolutions have 100 times as much, at "
        "their smaller rate.",
        panel=TRAINING,
    )
    schedule: Literal["cosine", "step"] = setting(
        "cosine",
        "Learning rate: cosine decay after a linear warm-up; or the paper's steps, a tenth at 1/2 and again at 3/4.",
        panel=TRAINING,
    )
    warmup: float = setting(0.15, "Fraction of all steps in which the cosine schedule warms up.", panel=TRAINING)
    label_smoothing: float = setting(
        0.1, "Fraction of the target that cross-entropy spreads over all classes.", panel=TRAINING
    )
    matching: float | str | Ramp = setting(
        "0",
        "What critics learn from losses: 0 is the labels only, 1 the paper's loss matching. A number, or FROM:TO for a "
        "ramp over training.",
        panel=CRITICS,
    )
    distill: float | str | Ramp = setting(
        "0:0.5",
        "Weight of imitating the next exit's outputs in what critics learn, 0 to 1. A number, or FROM:TO.",
        panel=CRITICS,
    )
    blocks: int | None = setting(
        None,
        "Blocks of groups for local-critic: groups of one block learn jointly, from the exits of their block; no "
        "gradient crosses from block to block. Fewer are better and need more memory. Default: each group is one.",
        panel=CRITICS,
    )
    critic_period: int = setting(1, "Update critics in every k-th step only.", panel=CRITICS)
    freeze_main: bool = setting(
        False,
        "Train the critics only, and the classifier if --weights has none for these classes; all else of the main "
        "network stays as it is, to the last bit.",
        panel=NETWORK,
    )
    critic_optimizer: Literal["sgd", "adam"] = setting(
        "sgd", "sgd: --optimizer, at --critic-lr; or adam, the paper's, at a constant 1e-4.", panel=CRITICS
    )
    critic_lr: float | None = setting(
        None,
        "Peak learning rate of critics, and with --weights of a new classifier. Default: that of --lr; with --weights "
        "0.003 for adamw, 0.02 for muon, 0.01 for sgd, but with --freeze-main that of --lr.",
        panel=CRITICS,
    )
    batch_norm: Literal["auto", "train", "keep", "recalibrate"] = setting(
        "auto",
        "Statistics of the main network's batch norm: train (moved by every batch), keep (as they are), recalibrate "
        "(measured anew on the training split, then kept), or auto: keep with --weights, else train.",
        panel=TRAINING,
    )
    new_parameters: tuple[str, ...] = setting(
        (), "Parameters of the main network that are new beside trained ones, by name: they learn at --critic-lr."
    )
    metric: str = setting(
        AUTO,
        "What exits are compared by: accuracy, balanced-accuracy, macro-f1, map, r2 or loss; or auto: accuracy of "
        "classes, R2 of a regression.",
        panel=TRAINING,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        "fp32, bf16 or fp16 (autocast; fp16 with scaled losses), or auto: bf16 where the hardware computes in it, or "
        "else fp16 on a GPU that is fast at it.",
        panel=TRAINING,
    )
    diagnostics: bool = setting(
        False,
        "After each epoch, compare every group's gradient with backpropagation's on one batch; needs the memory of "
        "backpropagation.",
        panel=TRAINING,
    )
    checkpoint_every: int | None = setting(
        None,
        "Steps after which a checkpoint is written within an epoch. Default: every 10 minutes.",
        panel=TRAINING,
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto is cuda if there is a GPU, else cpu.", panel=FIRST)
    compile: bool = setting(
        False,
        "Compile groups and critics with torch.compile: takes a minute at the start; whether it pays depends on the "
        "machine.",
        panel=TRAINING,
    )
    recompute: Literal["off", "auto", "on"] = setting(
        "off",
        "Save memory by running groups forward a second time before their backward pass: auto runs those again whose "
        "activations are largest, on all of them. Weights stay the same, to the bit.",
        panel=TRAINING,
    )
    seed: int = setting(
        0, "Random seed for weights, sample order, augmentation, dropout and the validation split.", panel=TRAINING
    )

    def __post_init__(self) -> None:
        require_choices(self)
        object.__setattr__(self, "metric", parse_metric(self.metric))
        _require(self, "epochs", self.epochs >= 0, "0 or more")
        for name in ("batch_size", "critic_period"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        steps = self.checkpoint_every
        _require(self, "checkpoint_every", steps is None or steps >= 1, "at least 1")
        object.__setattr__(self, "new_parameters", tuple(self.new_parameters))  # a list, when read back from JSON
        for name in ("lr", "critic_lr"):
            rate = getattr(self, name)
            _require(self, name, rate is None or 0 < rate < math.inf, "a positive number")
        _require(self, "momentum", 0 < self.momentum < 1, "between 0 and 1")
        _require(self, "weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        _require(self, "warmup", 0 <= self.warmup < 1, "at least 0 and less than 1")
        _require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and less than 1")
        _require(self, "seed", 0 <= self.seed < 2**32, "between 0 and 2**32 - 1")
        self.require_possible()
        Ramp.parse("matching", self.matching)
        Ramp.parse("distill", self.distill)
        if self.compile and self.recompute != "off":
            raise ConfigError(
                f"`recompute={self.recompute}` runs groups in parts, and `compile` as a whole; leave one of them out"
            )
        _require(self, "blocks", self.blocks is None or self.blocks >= 1, "at least 1")
        if self.blocks is not None and (self.method in ("joint", "backprop") or self.freeze_main or self.diagnostics):
            other = "`freeze_main`" if self.freeze_main else "`diagnostics`" if self.diagnostics else ""
            raise ConfigError(
                f"`blocks={self.blocks}` divides local critic training into blocks, which does not go with "
                f"{other or f'`method={self.method}`'}; leave one of them out"
            )
        if self.diagnostics and (self.freeze_main or self.method not in ("auto", "local-critic")):
            other = "`freeze_main`" if self.freeze_main else f"`method={self.method}`"
            raise ConfigError(
                f"`diagnostics` examines the local gradients that groups learn from, and with {other} there are none; "
                "leave one of them out"
            )

    def method_in(self, processes: int) -> Method:
        """Decide `auto`: return the method of a training in so many processes.

        It is joint training, which makes the better exits, where one process holds the network; and local critic
        training in several, with a frozen main network, and with other values than the defaults of `LOCAL`.
        """
        if self.method != "auto":
            return self.method
        is_local = processes > 1 or self.freeze_main or any(self._has_own(name) for name in LOCAL)
        return "local-critic" if is_local else "joint"

    def _has_own(self, name: str) -> bool:
        own, default = getattr(self, name), getattr(TrainConfig, name)
        if name in ("matching", "distill"):
            return Ramp.parse(name, own) != Ramp.parse(name, default)
        return bool(own != default)

    def resolved(
        self, *, images: bool = True, convolutional: bool = True, pretrained: bool = False
    ) -> ResolvedTrainConfig:
        """Return the settings that training follows: every `auto` decided for this machine and network, ramps parsed.

        `method` is decided as for one process.

        Resolving resolved settings changes nothing.

        Args:
            images: whether the network takes images; other networks are small, and gain nothing from bf16.
            convolutional: whether the network mixes channels mainly by convolutions, see `is_convolutional`.
            pretrained: whether the main network is trained already, and must not be shaken.

        Raises:
            ConfigError: this machine does not have the device.
        """
        import torch  # here, so that the settings can be read without it

        has_cuda = torch.cuda.is_available()
        device = ("cuda" if has_cuda else "cpu") if self.device == "auto" else self.device
        if device not in ("cpu", "cuda") or (device == "cuda" and not has_cuda):
            also = " and cuda" if has_cuda else " only"
            raise ConfigError(f"device is {self.device!r}; this machine has cpu{also}")
        precision = self.precision
        if precision == "auto":
            precision = fast_precision(device) if images else "fp32"
        optimizer = self.optimizer
        moves = pretrained and not self.freeze_main  # a trained network, gently
        if optimizer == "auto":
            optimizer = "muon" if convolutional and not moves else "adamw"
        lr = self.lr or (FINETUNING_LR if moves else DEFAULT_LR)[optimizer]
        batch_norm = self.batch_norm
        if batch_norm == "auto":
            batch_norm = "keep" if pretrained else "train"
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found: dict[str, Any] = {
            "method": self.method_in(1),
            "device": device,
            "precision": precision,
            "optimizer": optimizer,
            "lr": lr,
            "critic_lr": self.critic_lr or (NEW_PART_LR[optimizer] if moves else lr),
            "batch_norm": batch_norm,
            "keep": ("best" if self.patience else "last") if self.keep == "auto" else self.keep,
            "matching": Ramp.parse("matching", self.matching),
            "distill": Ramp.parse("distill", self.distill),
        }
        return ResolvedTrainConfig(**(given | found))


@dataclass(frozen=True, kw_only=True)
class ResolvedTrainConfig(TrainConfig):
    """Settings of a training run as it follows them, without `auto`, and with a learning rate and parsed ramps.

    `TrainConfig.resolved` makes them. `method`, `device`, `precision` and `optimizer` name what is used.
    """

    lr: float
    critic_lr: float
    matching: Ramp
    distill: Ramp

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("device", "precision", "optimizer", "batch_norm", "method", "keep"):
            _require(self, name, getattr(self, name) != "auto", "resolved; use TrainConfig(...).resolved()")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as config.json records them, with ramps as text; `TrainConfig` takes them back."""
        text = {"matching": str(self.matching), "distill": str(self.distill)}
        return dataclasses.asdict(self) | text | {"new_parameters": list(self.new_parameters)}

    def autocast(self) -> torch.autocast:
        """Return a context that computes in the precision of training."""
        return autocast(self.device, self.precision)


def _require(config: TrainConfig, name: str, holds: bool, limit: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {getattr(config, name)!r}; it must be {limit}")
