"""Train a network with local critics: configuration, schedules, the loop over epochs, checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from lctprune.candidates import score_exits
from lctprune.data import Data
from lctprune.errors import ConfigError, RunError, TrainingError
from lctprune.losses import Loss, cross_entropy
from lctprune.network import LocalCriticNetwork
from lctprune.runs import NETWORK_PREFIX, Run, create_run, split_sizes
from lctprune.settings import setting
from lctprune.splits import Normalization
from lctprune.update import local_critic_backward

PAPER_CRITIC_LR = 1e-4  # of Adam; section IV
EVALUATION_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Raises:
        ConfigError: a value is out of range.
    """

    epochs: int = setting(10, "Passes over the training split.")
    batch_size: int = setting(128, "Samples in a step.")
    lr: float = setting(0.1, "Highest learning rate of SGD.")
    momentum: float = setting(0.9, "Nesterov momentum of SGD.")
    weight_decay: float = setting(5e-4, "Weight decay of SGD, on weights only: not on biases or normalisation.")
    schedule: str = setting("cosine", "cosine, with warm-up; or step, the paper's: a tenth at 1/2, again at 3/4.")
    warmup: float = setting(0.15, "Share of all steps in which the cosine schedule's rate grows linearly.")
    label_smoothing: float = setting(0.1, "Share of the target that cross-entropy spreads over all classes.")
    matching: float | str = setting(
        "0:0.5", "Critics' objective, a number or a ramp FROM:TO over training: 0 labels only, 1 the paper's."
    )
    critic_period: int = setting(1, "Update critics in every k-th step only.")
    critic_optimizer: str = setting("sgd", "sgd, as the groups; or adam, the paper's, at a constant 1e-4.")
    precision: str = setting("auto", "fp32, bf16 (autocast), or auto: bf16 where the hardware computes in it.")
    device: str = setting("auto", "cpu, cuda, or auto: cuda where there is one.")
    compile: bool = setting(
        False, "Compile groups and critics (torch.compile): a minute at the start, then faster steps."
    )
    seed: int = setting(0, "Seed of the order of samples, augmentation and dropout.")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "critic_period"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        _require(self, "lr", 0 < self.lr < math.inf, "a positive number")
        _require(self, "momentum", 0 < self.momentum < 1, "between 0 and 1")
        _require(self, "weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        _require(self, "warmup", 0 <= self.warmup < 1, "at least 0 and less than 1")
        _require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and less than 1")
        _require(self, "schedule", self.schedule in ("cosine", "step"), "cosine or step")
        _require(self, "critic_optimizer", self.critic_optimizer in ("sgd", "adam"), "sgd or adam")
        _require(self, "precision", self.precision in ("auto", "fp32", "bf16"), "auto, fp32 or bf16")
        _require(self, "seed", 0 <= self.seed < 2**32, "between 0 and 2**32 - 1")
        parse_matching(self.matching)

    def resolved(self) -> TrainConfig:
        """The same with `auto` settled for this machine.

        Raises:
            ConfigError: the device is not there.
        """
        device = "cuda" if self.device == "auto" and torch.cuda.is_available() else self.device
        device = "cpu" if device == "auto" else device
        if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            raise ConfigError(f"device is {self.device!r}; this machine has cpu{_also_cuda()}")
        precision = self.precision
        if precision == "auto":
            precision = "bf16" if _computes_in_bf16(device) else "fp32"
        return dataclasses.replace(self, device=device, precision=precision)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training is: yielded after every step, and at the end of an epoch with `val_accuracy`.

    Attributes:
        epoch, epochs, step, steps: counted from 1; steps are those of one epoch.
        losses: mean training loss of each exit in this epoch so far.
        images_per_s: in this epoch so far, evaluation left out.
        seconds_left: until training ends, at this pace.
        val_accuracy: of each exit, 0 to 1, once the epoch is over.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: list[float]
    images_per_s: float
    seconds_left: float
    val_accuracy: list[float] | None = None


def train(
    network: LocalCriticNetwork,
    data: Data,
    config: TrainConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    loss: Loss | None = None,
) -> Run:
    """Train a network, in place, and leave a run directory behind.

    A network of one group, `LocalCriticNetwork([model])`, is trained by plain backpropagation. Seeds PyTorch's global
    random generator at every epoch, so that a resumed run repeats an uninterrupted one.

    Args:
        network: left on `config.device`, in evaluation mode.
        data: what to train and validate on.
        config: how; by default as `TrainConfig()`.
        run_dir: a new or empty directory; by default one below `runs/`.
        resume: continue the run in `run_dir` from its last whole epoch.
        loss: per sample; by default cross-entropy with `config.label_smoothing`.

    Raises:
        ConfigError: the device is not there.
        RunError: `run_dir` holds something, or cannot be resumed or written to.
        TrainingError: a loss is not finite. The checkpoint of the last whole epoch stays.
    """
    run = open_run(network, data, config or TrainConfig(), run_dir=run_dir, resume=resume)
    for _ in train_steps(network, data, run, loss=loss):
        pass
    return run


def open_run(
    network: LocalCriticNetwork,
    data: Data,
    config: TrainConfig,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
) -> Run:
    """The new or resumed run directory that `train_steps` then fills. Arguments and errors are those of `train`."""
    settings = {
        "network": network.recipe.to_dict() if network.recipe else None,
        "data": _data_settings(data),
        "training": dataclasses.asdict(config.resolved()),
    }
    if not resume:
        return create_run(run_dir, settings)
    if run_dir is None:
        raise RunError("to resume, name the run directory (--out DIR)")
    run = Run(run_dir)
    for part, values in settings.items():
        if values != run.config[part]:
            changed = sorted(key for key in values or {} if (values or {})[key] != (run.config[part] or {}).get(key))
            raise RunError(
                f"{run.path} was begun with another {part} ({', '.join(changed) or 'made by hand'}); "
                "resume with the same settings"
            )
    return run


def train_steps(network: LocalCriticNetwork, data: Data, run: Run, *, loss: Loss | None = None) -> Iterator[Progress]:
    """Train epoch by epoch from the run's checkpoint on, yielding progress after every step. See `train`."""
    config = TrainConfig(**run.config["training"])
    loss = loss or functools.partial(cross_entropy, label_smoothing=config.label_smoothing)
    network.to(config.device)
    _to_channels_last(network)
    optimizers = Optimizers(network, config)
    done = run.epochs_done
    rows: list[dict[str, object]] = [{**row} for row in run.metrics[:done]]
    if done:
        network.load_state_dict(run.read_checkpoint(NETWORK_PREFIX))
        optimizers.load_tensors(run.read_checkpoint("optimizer."))
    stepped = _compiled(network) if config.compile else network
    for epoch in range(done, config.epochs):
        torch.manual_seed(_epoch_seed(config.seed, epoch))
        progress = None
        for progress in _train_epoch(stepped, data, optimizers, config, epoch, loss):
            yield progress
        if progress is None:
            raise TrainingError("the training split has no samples")
        with _autocast(config):
            scores = score_exits(network, data.val, batch_size=EVALUATION_BATCH)
        rows.append(_metrics_row(progress, scores.accuracy, scores.loss, optimizers))
        run.write_metrics(rows)
        tensors = {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in network.state_dict().items()}
        run.write_checkpoint(epoch + 1, tensors | {f"optimizer.{k}": v for k, v in optimizers.tensors().items()})
        yield dataclasses.replace(progress, val_accuracy=scores.accuracy)
    network.eval()


def _train_epoch(
    network: LocalCriticNetwork,
    data: Data,
    optimizers: Optimizers,
    config: TrainConfig,
    epoch: int,
    loss: Loss,
) -> Iterator[Progress]:
    steps = max(1, len(data.train.targets) // config.batch_size)
    total = torch.zeros(len(network.groups))
    seconds, samples = 0.0, 0
    network.train()
    batches = data.train.shuffled(config.batch_size, seed=_epoch_seed(config.seed, epoch))
    start = time.perf_counter()
    for index, (inputs, targets) in enumerate(batches):
        position = epoch * steps + index
        progress = position / (config.epochs * steps)
        update_critics = position % config.critic_period == 0
        optimizers.set_learning_rate(learning_rate(progress, config))
        optimizers.zero_grad()
        with _autocast(config):
            losses = local_critic_backward(
                network,
                inputs.to(config.device, non_blocking=True),
                targets.to(config.device, non_blocking=True),
                loss=loss,
                matching=matching_at(progress, config),
                critic_update=update_critics,
            )
        optimizers.step(critics=update_critics)
        means = torch.stack([exit_losses.mean() for exit_losses in losses]).cpu()
        _require_finite(means, epoch, index)
        total += means
        samples += len(targets)
        seconds = time.perf_counter() - start
        yield Progress(
            epoch=epoch + 1,
            epochs=config.epochs,
            step=index + 1,
            steps=steps,
            losses=(total / (index + 1)).tolist(),
            images_per_s=samples / seconds,
            seconds_left=seconds / (index + 1) * (config.epochs * steps - position - 1),
        )


class Optimizers:
    """One optimiser for each group and one for each critic, as a worker per group needs them."""

    def __init__(self, network: LocalCriticNetwork, config: TrainConfig) -> None:
        self.groups = [_sgd(group, config) for group in network.groups]
        make_critic_optimizer = _sgd if config.critic_optimizer == "sgd" else _adam
        self.critics = [make_critic_optimizer(critic, config) for critic in network.critics]

    @property
    def all(self) -> list[Optimizer]:
        """Those of the groups, then those of the critics."""
        return [optimizer for optimizer in [*self.groups, *self.critics] if optimizer is not None]

    def zero_grad(self) -> None:
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)

    def step(self, *, critics: bool) -> None:
        for optimizer in [*self.groups, *(self.critics if critics else [])]:
            if optimizer is not None:
                optimizer.step()

    def set_learning_rate(self, lr: float) -> None:
        """The schedule's rate, for SGD; Adam keeps its own, as in the paper."""
        for optimizer in self.all:
            for group in optimizer.param_groups:
                if isinstance(optimizer, SGD):
                    group["lr"] = lr

    def tensors(self) -> dict[str, Tensor]:
        """All states by name: optimiser, parameter, state."""
        return {
            f"{index}.{parameter}.{name}": value
            for index, optimizer in enumerate(self.all)
            for parameter, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for index, optimizer in enumerate(self.all):
            states: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                owner, parameter, state = name.split(".")
                if int(owner) == index:
                    states.setdefault(int(parameter), {})[state] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def learning_rate(progress: float, config: TrainConfig) -> float:
    """SGD's rate when a share `progress` (0 to 1) of all steps is done."""
    if config.schedule == "step":
        return config.lr * 0.1 ** ((progress >= 1 / 2) + (progress >= 3 / 4))
    if progress < config.warmup:
        return config.lr * max(progress, 1e-3) / config.warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))


def matching_at(progress: float, config: TrainConfig) -> float:
    """m of the critics' objective when a share `progress` (0 to 1) of all steps is done."""
    begin, end = parse_matching(config.matching)
    return begin + (end - begin) * progress


def parse_matching(matching: float | str) -> tuple[float, float]:
    """A number, or a ramp "FROM:TO", as its two ends.

    Raises:
        ConfigError: it is neither, or not between 0 and 1.
    """
    begin, colon, end = str(matching).partition(":")
    try:
        ends = float(begin), float(end if colon else begin)
    except ValueError:
        ends = math.nan, math.nan
    if not all(0 <= value <= 1 for value in ends):
        raise ConfigError(f"matching is {matching!r}; it must be a number between 0 and 1, or a ramp such as 0:0.5")
    return ends


def _sgd(module: nn.Module, config: TrainConfig) -> SGD | None:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in parameters if parameter.dim() > 1]
    others = [parameter for parameter in parameters if parameter.dim() <= 1]  # biases and normalisation
    decayed: list[dict[str, Any]] = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((weights, config.weight_decay), (others, 0.0))
        if group
    ]
    if not decayed:
        return None
    return SGD(decayed, lr=config.lr, momentum=config.momentum, nesterov=True, fused=True)


def _adam(module: nn.Module, config: TrainConfig) -> Adam | None:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Adam(parameters, lr=PAPER_CRITIC_LR, fused=True) if parameters else None


def _metrics_row(
    progress: Progress, val_accuracy: list[float], val_loss: list[float], optimizers: Optimizers
) -> dict[str, object]:
    row: dict[str, object] = {
        "epoch": progress.epoch,
        "lr": optimizers.all[0].param_groups[0]["lr"],
        "images_per_s": round(progress.images_per_s, 2),
    }
    for exit, values in enumerate(zip(progress.losses, val_accuracy, val_loss, strict=True)):
        row |= {
            f"exit{exit}_{name}": round(value, 6)
            for name, value in zip(("train_loss", "val_accuracy", "val_loss"), values, strict=True)
        }
    return row


def _data_settings(data: Data) -> dict[str, Any] | None:
    if data.config is None:
        return None
    normalization = data.normalization or Normalization((), ())
    return {
        "config": dataclasses.asdict(data.config),
        "classes": list(data.classes),
        "samples": split_sizes(data),
        "mean": list(normalization.mean),
        "std": list(normalization.std),
    }


def _compiled(network: LocalCriticNetwork) -> LocalCriticNetwork:
    """The same parameters, with every group and critic compiled on its own."""

    def compiled(modules: Iterable[nn.Module]) -> list[nn.Module]:
        return [cast(nn.Module, torch.compile(module)) for module in modules]

    return LocalCriticNetwork(compiled(network.groups), compiled(network.critics))


def _to_channels_last(network: nn.Module) -> None:
    network.to(memory_format=torch.channels_last)


def _autocast(config: TrainConfig) -> AbstractContextManager[object]:
    # every module runs once a step, so a cache of cast weights would only hold memory
    return torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bf16", cache_enabled=False)


def _computes_in_bf16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _also_cuda() -> str:
    return " and cuda" if torch.cuda.is_available() else " only"


def _epoch_seed(seed: int, epoch: int) -> int:
    return seed * 100_003 + epoch


def _require(config: TrainConfig, name: str, holds: bool, limit: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {getattr(config, name)!r}; it must be {limit}")


def _require_finite(means: Tensor, epoch: int, step: int) -> None:
    if not means.isfinite().all():
        exit = int((~means.isfinite()).nonzero()[0])
        raise TrainingError(
            f"the loss of exit {exit} is {means[exit].item()} at epoch {epoch + 1}, step {step + 1}; "
            "try a smaller --lr. The last checkpoint is unharmed"
        )
