"""Train a network with local critics: the loop over epochs, evaluation, checkpoints."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lctprune.candidates import score_exits
from lctprune.compilation import compilation, compiled
from lctprune.data_set import Data
from lctprune.errors import ConfigError, LctpruneError, RunError, TrainingError, first_line
from lctprune.losses import Loss, default_loss
from lctprune.network import LocalCriticNetwork
from lctprune.optimizers import Optimizers, learning_rate, matching_at
from lctprune.runs import Run, create_run, data_settings
from lctprune.train_config import TrainConfig
from lctprune.update import local_critic_backward
from lctprune.weights import NETWORK_PREFIX

EVALUATION_BATCH = 512


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
        loss: per sample; by default cross-entropy with `config.label_smoothing`, or mean squared error where targets
            are floating-point numbers.

    Raises:
        ConfigError: the device is not there, or `freeze_main` leaves nothing to train.
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
    if config.freeze_main and not network.critics:
        raise ConfigError("to freeze the main network leaves nothing to train: it has no critics; use 2 groups or more")
    settings = {
        "network": network.recipe.to_dict() if network.recipe else None,
        "data": data_settings(data),
        "training": dataclasses.asdict(config.resolved(images=data.example.dim() == 4)),
    }
    settings = json.loads(json.dumps(settings))  # as they are read back
    model = network.recipe.model if network.recipe else None
    if not resume:
        return create_run(run_dir, settings, model=model)
    if run_dir is None:
        raise RunError("to resume, name the run directory (--out DIR)")
    run = Run(run_dir, model=model)
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
    with _frozen(network.groups) if config.freeze_main else nullcontext():
        yield from _train_epochs(network, data, run, config, loss)


def _train_epochs(
    network: LocalCriticNetwork, data: Data, run: Run, config: TrainConfig, loss: Loss | None
) -> Iterator[Progress]:
    loss = loss or default_loss(data.train.targets, label_smoothing=config.label_smoothing)
    network.to(config.device)
    _to_channels_last(network)
    optimizers = Optimizers(network, config)
    done = run.epochs_done
    rows: list[dict[str, object]] = [{**row} for row in run.metrics[:done]]
    if done:
        network.load_state_dict(run.read_checkpoint(NETWORK_PREFIX))
        optimizers.load_tensors(run.read_checkpoint("optimizer."))
    stepped = compiled(network) if config.compile else network
    for epoch in range(done, config.epochs):
        torch.manual_seed(_epoch_seed(config.seed, epoch))
        progress = None
        for progress in _train_epoch(stepped, data, optimizers, config, epoch, loss):
            yield progress
        if progress is None:
            raise TrainingError("the training split has no samples")
        with _autocast(config):
            scores = score_exits(network, data.val, batch_size=EVALUATION_BATCH)
        _require_finite(torch.tensor(scores.loss), epoch, progress.step - 1)
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
    network.groups.train(not config.freeze_main)
    batches = data.train.shuffled(config.batch_size, seed=_epoch_seed(config.seed, epoch))
    start = time.perf_counter()
    for index, (inputs, targets) in enumerate(batches):
        position = epoch * steps + index
        progress = position / (config.epochs * steps)
        update_critics = position % config.critic_period == 0
        optimizers.set_learning_rate(learning_rate(progress, config))
        optimizers.zero_grad()
        with _autocast(config), compilation(config), _explained(epoch, index):
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


@contextmanager
def _frozen(groups: nn.Module) -> Iterator[None]:
    """Nothing inside needs a gradient; afterwards what did does again."""
    parameters = [parameter for parameter in groups.parameters() if parameter.requires_grad]
    groups.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_()


@contextmanager
def _explained(epoch: int, step: int) -> Iterator[None]:
    """What a network raises inside, as one line."""
    try:
        yield
    except LctpruneError:
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise TrainingError(f"epoch {epoch + 1}, step {step + 1} failed: {first_line(error)}") from error


def _to_channels_last(network: nn.Module) -> None:
    network.to(memory_format=torch.channels_last)


def _autocast(config: TrainConfig) -> AbstractContextManager[object]:
    # every module runs once a step, so a cache of cast weights would only hold memory
    return torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bf16", cache_enabled=False)


def _epoch_seed(seed: int, epoch: int) -> int:
    return seed * 100_003 + epoch


def _require_finite(means: Tensor, epoch: int, step: int) -> None:
    if not means.isfinite().all():
        exit = int((~means.isfinite()).nonzero()[0])
        raise TrainingError(
            f"the loss of exit {exit} is {means[exit].item()} at epoch {epoch + 1}, step {step + 1}; "
            "try a smaller --lr. The last checkpoint is unharmed"
        )
