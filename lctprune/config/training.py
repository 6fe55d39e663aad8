"""The settings of training."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lctprune.config.fields import setting
from lctprune.errors import ConfigError

if TYPE_CHECKING:
    import torch

DEFAULT_LR = {"muon": 0.02, "sgd": 0.2, "adamw": 1e-3}
METHODS = ("local-critic", "joint", "backprop")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Raises:
        ConfigError: a value is out of range.
    """

    method: str = setting(
        "local-critic",
        "local-critic; or, as references: joint, the same critics, with all gradients through the whole network "
        "(deep supervision), or backprop, the plain network.",
    )
    epochs: int = setting(10, "Passes over the training split.")
    batch_size: int = setting(64, "Samples in a step.")
    optimizer: str = setting(
        "auto",
        "muon (orthogonal updates of convolutions, SGD for the rest), sgd, adamw, or auto: muon for convolutional "
        "networks, adamw for all others.",
    )
    lr: float | None = setting(
        None,
        "Highest learning rate; by default 0.02 of muon (its SGD has 20 times that, less for wide linear layers), 0.2 "
        "of sgd, 0.001 of adamw.",
    )
    momentum: float = setting(0.9, "Nesterov momentum of SGD and Muon.")
    weight_decay: float = setting(
        5e-4,
        "Weight decay, on weights only: not on biases or normalisation; muon's convolutions have 100 times as much, "
        "at their smaller rate.",
    )
    schedule: str = setting("cosine", "cosine, with warm-up; or step, the paper's: a tenth at 1/2, again at 3/4.")
    warmup: float = setting(0.15, "Share of all steps in which the cosine schedule's rate grows linearly.")
    label_smoothing: float = setting(0.1, "Share of the target that cross-entropy spreads over all classes.")
    matching: float | str = setting(
        "0", "What critics learn from losses, a number or a ramp FROM:TO over training: 0 labels only, 1 the paper's."
    )
    distill: float | str = setting(
        "0:0.5",
        "Share of the critics' objective that is the distance to the next exit's outputs: a number, or FROM:TO.",
    )
    critic_period: int = setting(1, "Update critics in every k-th step only.")
    freeze_main: bool = setting(False, "Train critics only: the main network stays as it is, to the last bit.")
    critic_optimizer: str = setting(
        "sgd", "sgd, as the groups (whatever theirs is); or adam, the paper's, at a constant 1e-4."
    )
    precision: str = setting("auto", "fp32, bf16 (autocast), or auto: bf16 where the hardware computes in it.")
    diagnostics: bool = setting(
        False,
        "After each epoch, compare every group's gradient with backpropagation's, on one batch; takes its memory.",
    )
    device: str = setting("auto", "cpu, cuda, or auto: cuda where there is one.")
    compile: bool = setting(
        False,
        "Compile groups and critics (torch.compile): a minute at the start; whether it pays depends on the machine.",
    )
    seed: int = setting(0, "Seed of the order of samples, augmentation and dropout.")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "critic_period"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        _require(self, "method", self.method in METHODS, f"one of {', '.join(METHODS)}")
        _require(self, "lr", self.lr is None or 0 < self.lr < math.inf, "a positive number")
        _require(self, "optimizer", self.optimizer in ("auto", *DEFAULT_LR), f"one of auto, {', '.join(DEFAULT_LR)}")
        _require(self, "momentum", 0 < self.momentum < 1, "between 0 and 1")
        _require(self, "weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        _require(self, "warmup", 0 <= self.warmup < 1, "at least 0 and less than 1")
        _require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and less than 1")
        _require(self, "schedule", self.schedule in ("cosine", "step"), "cosine or step")
        _require(self, "critic_optimizer", self.critic_optimizer in ("sgd", "adam"), "sgd or adam")
        _require(self, "precision", self.precision in ("auto", "fp32", "bf16"), "auto, fp32 or bf16")
        _require(self, "seed", 0 <= self.seed < 2**32, "between 0 and 2**32 - 1")
        parse_ramp("matching", self.matching)
        parse_ramp("distill", self.distill)
        if self.diagnostics and (self.freeze_main or self.method != "local-critic"):
            other = "--freeze-main" if self.freeze_main else f"--method {self.method}"
            raise ConfigError(
                f"--diagnostics examines the local gradients that groups learn from, and with {other} there are none; "
                "leave one of them out"
            )

    def resolved(self, *, images: bool = True, convolutional: bool = True) -> TrainConfig:
        """The same with `auto` settled for this machine, and ramps in one way of writing.

        Args:
            images: whether the network sees images: other networks are small, and gain nothing from bf16.
            convolutional: whether it mixes channels mainly by convolutions, as `is_convolutional` tells.

        Raises:
            ConfigError: the device is not there.
        """
        import torch  # here, so that the settings can be read without it

        device = "cuda" if self.device == "auto" and torch.cuda.is_available() else self.device
        device = "cpu" if device == "auto" else device
        if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            raise ConfigError(f"device is {self.device!r}; this machine has cpu{_also_cuda()}")
        precision = self.precision
        if precision == "auto":
            precision = "bf16" if images and _computes_in_bf16(device) else "fp32"
        optimizer = self.optimizer
        if optimizer == "auto":
            optimizer = "muon" if convolutional else "adamw"
        lr = DEFAULT_LR[optimizer] if self.lr is None else self.lr
        return dataclasses.replace(
            self,
            device=device,
            precision=precision,
            optimizer=optimizer,
            lr=lr,
            matching=_ramp(*parse_ramp("matching", self.matching)),
            distill=_ramp(*parse_ramp("distill", self.distill)),
        )

    def autocast(self) -> torch.autocast:
        """Compute in the precision of training; the settings must be resolved."""
        import torch

        # every module runs once a step, so a cache of cast weights would only hold memory
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False)


def parse_ramp(name: str, value: float | str) -> tuple[float, float]:
    """A number, or a ramp "FROM:TO", as its two ends.

    Raises:
        ConfigError: it is neither, or not between 0 and 1.
    """
    begin, colon, end = str(value).partition(":")
    try:
        ends = float(begin), float(end if colon else begin)
    except ValueError:
        ends = math.nan, math.nan
    if not all(0 <= each <= 1 for each in ends):
        raise ConfigError(f"{name} is {value!r}; it must be a number between 0 and 1, or a ramp such as 0:0.5")
    return ends


def _ramp(begin: float, end: float) -> str:
    """In one way of writing, so that equal ones can be told to be equal."""
    return f"{begin:g}" if begin == end else f"{begin:g}:{end:g}"


def _computes_in_bf16(device: str) -> bool:
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _also_cuda() -> str:
    import torch

    return " and cuda" if torch.cuda.is_available() else " only"


def _require(config: TrainConfig, name: str, holds: bool, limit: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {getattr(config, name)!r}; it must be {limit}")
