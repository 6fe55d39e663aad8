"""Train a network with local critics, in one process or in several."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lctprune.config.training import TrainConfig, parse_ramp
from lctprune.data.builtin import NAMED
from lctprune.data.dataset import Data, data_settings
from lctprune.data.load import location
from lctprune.errors import ConfigError, RunError
from lctprune.losses import Distance, Loss, default_loss, distance_to_teacher
from lctprune.measure.step_costs import group_seconds
from lctprune.network import LocalCriticNetwork
from lctprune.optim.optimizers import settled
from lctprune.runs import NETWORK_PREFIX, Run, create_run
from lctprune.training.distributed.pipeline import Pipeline, require_one_process
from lctprune.training.distributed.process_group import ProcessGroup
from lctprune.training.loop import Plan, Progress, train_epochs
from lctprune.training.preflight import require_trainable
from lctprune.utils.modules import moved


def train(
    network: LocalCriticNetwork,
    data: Data,
    config: TrainConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    loss: Loss | None = None,
    distance: Distance | None = None,
) -> Run:
    """Train a network, in place, and leave a run directory behind.

    A network of one group, `LocalCriticNetwork([model])`, is trained by plain backpropagation. Seeds PyTorch's global
    random generator in every step, so that a resumed run repeats an uninterrupted one.

    Args:
        network: left on `config.device`, in evaluation mode.
        data: what to train and validate on.
        config: how; by default as `TrainConfig()`.
        run_dir: a new or empty directory; by default one below `runs/`.
        resume: continue the run in `run_dir` from its last whole epoch.
        loss: per sample; by default cross-entropy with `config.label_smoothing` (in validation without), or mean
            squared error where targets are floating-point numbers.
        distance: of a critic's output from the next exit's, [batch], where critics distil; by default that of
            `distance_to_teacher`.

    Raises:
        ConfigError: the device is not there, or without critics `freeze_main` leaves nothing to train, or `diagnostics`
            nothing to examine; or critics are to distil, and a `loss` on floating-point targets comes without
            `distance`.
        NetworkError: the network does not run on the data, or cannot be trained in parts; see `require_trainable`.
        RunError: `run_dir` holds something, or cannot be resumed or written to.
        TrainingError: a loss is not finite. The checkpoint of the last whole epoch stays.
    """
    run = open_run(network, data, config or TrainConfig(), run_dir=run_dir, resume=resume)
    for _ in train_steps(network, data, run, loss=loss, distance=distance):
        pass
    return run


def open_run(
    network: LocalCriticNetwork,
    data: Data,
    config: TrainConfig,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> Run:
    """The new or resumed run directory that `train_steps` then fills.

    Arguments and errors are those of `train`; `origin` is what a run that is added to another one remembers of that.
    """
    if config.method == "backprop" and network.critics:
        raise ConfigError(f"backprop trains a plain network, of 1 group; this one has {len(network.groups)}")
    if config.freeze_main and not network.critics:
        raise ConfigError("to freeze the main network leaves nothing to train: it has no critics; use 2 groups or more")
    if config.diagnostics and not network.critics:
        raise ConfigError(
            "--diagnostics examines local gradients, and without critics there are none; use 2 groups or more"
        )
    require_trainable(network, data, freeze_main=config.freeze_main)
    settings: dict[str, Any] = {
        "network": network.recipe.to_dict() if network.recipe else None,
        "data": data_settings(data),
        "training": dataclasses.asdict(settled(config, network.groups, data.example)),
    }
    if origin is not None and not resume:
        settings["origin"] = origin
    settings = json.loads(json.dumps(settings))  # as they are read back
    model = network.recipe.model if network.recipe else None
    if not resume:
        return create_run(run_dir, settings, model=model)
    if run_dir is None:
        raise RunError("to resume, name the run directory (--out DIR)")
    place = location(data.config) if data.config else None
    run = Run(run_dir, model=model, data_path=place)
    run.remove_leftovers()
    _forget_place(settings, run.config)
    for part, values in settings.items():
        if values != run.config[part]:
            changed = list(_changes(run.config[part] or {}, values or {}))
            raise RunError(
                f"{run.path} was begun with another {part} ({', '.join(changed) or 'made by hand'}); "
                "resume with the same settings"
            )
    return run


def _forget_place(settings: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """Take the paths of the data as they were recorded: where its files lie is no setting."""
    if settings["data"] and recorded["data"]:
        now, was = settings["data"]["config"], recorded["data"]["config"]
        now["data_dir"] = was.get("data_dir", now["data_dir"])
        if now["name"] not in NAMED and was["name"] not in NAMED:
            now["name"] = was["name"]  # hashes tell other data


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs, in words, down to settings within settings."""
    for key in sorted(before.keys() | now.keys()):
        was, value = before.get(key), now.get(key)
        if isinstance(was, Mapping) and isinstance(value, Mapping):
            yield from _changes(was, value)
        elif was != value:
            yield textwrap.shorten(f"{key} was {was!r}, is {value!r}", 100)


def train_steps(
    network: LocalCriticNetwork,
    data: Data | None,
    run: Run | None,
    *,
    loss: Loss | None = None,
    distance: Distance | None = None,
    validation_loss: Loss | None = None,
    processes: ProcessGroup | None = None,
    replicas: int = 1,
) -> Iterator[Progress]:
    """Train epoch by epoch from the run's checkpoint on, yielding progress after every step. See `train`.

    Each of several processes calls this with the same network, and keeps its own groups of it. Only rank 0 needs data
    and a run, which then holds the whole trained network.

    Args:
        network: with its critics.
        data: what to train and validate on; None in all processes but the first.
        run: what `open_run` gives; None in all processes but the first.
        loss: as of `train`.
        distance: as of `train`.
        validation_loss: per sample, of the validation split; by default `loss`, or where that is the default,
            the same without label smoothing.
        processes: what `process_group` gives.
        replicas: pipelines side by side, which share each batch of `batch_size` samples.

    Raises:
        ConfigError: the number of processes does not fit the groups and replicas, or the method; `distance` is missing.
        ProcessLostError: another process has ended.
    """
    plan = _plan(data, run)
    plan = Plan(*processes.share(plan)) if processes else plan
    assert plan is not None, "a process alone needs data and a run"
    config = TrainConfig(**plan.training)
    require_one_process(config, processes.size if processes else 1)
    if distance is None:
        if plan.is_regression and loss is not None and network.critics:
            _require_no_distance(config)
        distance = distance_to_teacher(is_regression=plan.is_regression)
    pipeline = Pipeline(processes, groups=len(network.groups), replicas=replicas, device=config.device)
    validation_loss = validation_loss or loss
    loss = loss or _default_loss(config, is_regression=plan.is_regression)
    seconds = None
    if pipeline.must_balance:
        seconds = pipeline.share(_group_seconds(network, data, config, loss) if data else None)
    shares = pipeline.assign(seconds)
    own = nn.ModuleList(network.groups[index] for index in shares[pipeline.place])
    with _frozen(own) if config.freeze_main else nullcontext():
        stage = pipeline.stage(network, shares, config, loss, distance=distance)
        if processes or plan.epochs_done:
            pipeline.distribute(stage, _checkpoint(network, run) if run else None, shares)
        if processes:
            del network  # of which this process needs no more than its own groups
        yield from train_epochs(stage, pipeline, data, run, plan, validation_loss=validation_loss)
    pipeline.close()
    if not processes:
        network.eval()


def _plan(data: Data | None, run: Run | None) -> Plan | None:
    if data is None or run is None:
        return None
    targets, training = data.train.targets, run.config["training"]
    return Plan(training, max(1, len(targets) // training["batch_size"]), run.epochs_done, targets.is_floating_point())


def _require_no_distance(config: TrainConfig) -> None:
    if config.method == "local-critic" and parse_ramp("distill", config.distill) != (0, 0):
        raise ConfigError(
            "for a loss of your own on floating-point targets, say how far an output is from the next exit's "
            "(distance=...), or that critics do not distil (distill=0)"
        )


def _default_loss(config: TrainConfig, *, is_regression: bool) -> Loss:
    targets = torch.empty(0, dtype=torch.float if is_regression else torch.long)
    return default_loss(targets, label_smoothing=config.label_smoothing)


def _checkpoint(network: LocalCriticNetwork, run: Run) -> dict[str, Tensor]:
    """The run's; before its first epoch, the network as it is."""
    if not run.epochs_done:
        return {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in network.state_dict().items()}
    tensors = run.read_checkpoint("")
    if any(name.startswith("optimizer.") and name.count(".") != 4 for name in tensors):
        raise RunError(f"{run.path} was begun by an earlier version, which kept other optimiser states; train it again")
    return tensors


def _group_seconds(network: LocalCriticNetwork, data: Data, config: TrainConfig, loss: Loss) -> list[float]:
    inputs, targets = next(iter(data.train.shuffled(config.batch_size, seed=config.seed)))
    moved(network, config.device)
    with _frozen(network.groups) if config.freeze_main else nullcontext():
        return group_seconds(network, inputs.to(config.device), targets.to(config.device), config, loss=loss)


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
