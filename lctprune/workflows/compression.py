"""Compress a trained network to a budget: critics, further critics, fewer channels, fine-tuning, choice, export."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import torch

from lctprune.config.compression import CompressConfig
from lctprune.config.data import DataConfig
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data
from lctprune.data.splits import sample_count
from lctprune.errors import ConfigError, NetworkError, RunError
from lctprune.measure.selection import Budget
from lctprune.models.build import build_network, fitted
from lctprune.pruning.dependencies import require_engine
from lctprune.runs import Run, require_new
from lctprune.training.trainer import open_run
from lctprune.workflows.compression_costs import Costs, further_cost, require_feasible
from lctprune.workflows.compression_plan import Planned, critics_cost, planned
from lctprune.workflows.compression_record import read_record
from lctprune.workflows.compression_schedule import COMPRESSION, Schedule
from lctprune.workflows.compression_stages import Compressed, Compression
from lctprune.workflows.going_on import resumed_settings
from lctprune.workflows.session import Prepared, prepare
from lctprune.workflows.session_settings import SessionSettings
from lctprune.workflows.taught import repeatable_views


def compress(
    model: str | NetworkConfig,
    data: Data | DataConfig,
    budget: Budget,
    *,
    weights: str | Path,
    config: CompressConfig | None = None,
    training: TrainConfig | None = None,
    out: str | Path | None = None,
    resume: bool = False,
) -> Compressed:
    """Compress a trained network to a budget, and export the result.

    Critics are trained on the network, which is frozen; then more of them, at other depths; then the main network and
    the best exits that are too large are narrowed to the budget, and fine-tuned with the main network as their teacher
    by successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943), so that most of the training goes into the
    most promising one. The best by validation that fits the budget is measured on the test split and exported.

    Args:
        model: name of the network, as for `build_network` (`package.module:function` for one's own), or its settings.
        data: data to train on, or its settings.
        budget: limits; percentages are of the given network.
        weights: weights of the network: a file, a run directory, or `default`. See `build_network`.
        config: settings of the compression.
        training: settings of each training; epochs, rates and what critics learn are left to the compression.
        out: run directory, new or empty; by default one below `runs/`.
        resume: whether to continue the compression in `out`, with the same arguments.

    Raises:
        BudgetError: nothing can fit by its costs; nothing was written.
        ConfigError: a value is out of range, the network fits already, or Torch-Pruning is not installed.
        NetworkError: the network cannot be built, cut or trained.
        RunError: `out` cannot be written or resumed, or was begun with other settings.
        TrainingError: a loss is not finite.
    """
    compression = begin_compression(
        model, data, budget, weights=weights, config=config, training=training, out=out, resume=resume
    )
    for stage in compression.stages():
        for _ in stage.session.steps():
            pass
    return compression.finish()


def begin_compression(
    model: str | NetworkConfig,
    data: Data | DataConfig,
    budget: Budget,
    *,
    weights: str | Path,
    config: CompressConfig | None = None,
    training: TrainConfig | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    download: bool = False,
) -> Compression:
    """Check that a budget can be kept, plan the compression and open its run. See `compress`."""
    require_engine()
    if budget == Budget():
        raise ConfigError("a compression needs a budget; give one, such as `Budget(flops='50%')`")
    config = config or CompressConfig()
    training = dataclasses.replace(
        training or TrainConfig(),
        method="local-critic",
        freeze_main=True,
        blocks=None,
        diagnostics=False,
        epochs=_whole(config),
    )
    network = NetworkConfig(model=model) if isinstance(model, str) else model
    folder = None if out is None else Path(out)
    if resume and folder is None:
        raise RunError("to resume, name the run directory")
    if isinstance(data, Data):
        if folder is not None and not resume:
            require_new(folder)  # as `prepare` does
        prepared = _prepared(network, data, training, str(weights), folder if resume else None)
    else:
        settings = SessionSettings(
            network=network,
            data=data,
            training=training,
            weights=str(weights),
            download=download,
            out=folder,
            resume=resume,
        )
        prepared = prepare(settings)
    if prepared.network.new_parameters:
        raise NetworkError(
            f"{weights} has no classifier for these classes ({', '.join(prepared.network.new_parameters)} is new), so "
            "there is no trained network to compress; train it from these `weights`, then give that run"
        )
    return _begun(prepared, budget, config, folder, resume=resume)


def resume_compression(run: Run, *, data: Path | None = None) -> Compression:
    """Go on with a compression by the settings that its run recorded.

    Args:
        run: run, with the name of the user's own function if one builds the network.
        data: present location of the data, if it has moved.

    Raises:
        RunError: it was begun in a program, or stopped before its plan was written; or a file of it is damaged.
    """
    path = run.path / COMPRESSION
    if not run.is_compression:
        raise RunError(f"{run.path} was begun in a program; go on there: lct.compress(..., resume=True)")
    if not os.path.lexists(path):
        raise RunError(f"{run.path} was stopped before its plan was written; to go on: {run.compression_command}")
    record = read_record(path)
    prepared = prepare(resumed_settings(run, data=data))
    return _begun(prepared, Budget(**record["budget"]), CompressConfig(**record["config"]), run.path, resume=True)


def _begun(
    prepared: Prepared, budget: Budget, config: CompressConfig, folder: Path | None, *, resume: bool
) -> Compression:
    """Open the run of a compression; one that has its plan was found feasible when that was made."""
    config = dataclasses.replace(config, views=repeatable_views(prepared.data, config.views))
    costs = Costs.of(prepared.network, prepared.data.example, budget)
    if not (resume and folder is not None and os.path.lexists(folder / COMPRESSION)):
        require_feasible(prepared.network, prepared.data.example, costs)
    plan = _plan(prepared, costs, config)
    run = open_run(
        prepared.network, prepared.data, prepared.training, run_dir=folder, resume=resume, given=prepared.given
    )
    return Compression(prepared.network, prepared.data, Schedule(run, config, costs, plan))


def _whole(config: CompressConfig) -> int:
    """Return enough epochs for the critics: a pass costs at least a third of one of the network's."""
    return max(1, math.ceil(3 * config.divided[0] * config.epochs - 1e-9))


def _prepared(
    network: NetworkConfig, data: Data, training: TrainConfig, weights: str, resumed: Path | None
) -> Prepared:
    """Build the network for data in memory."""
    torch.manual_seed(training.seed)
    recorded = Run(resumed).config.network if resumed else None
    return Prepared(build_network(recorded or fitted(network, data), weights=weights), data, training)


def _plan(prepared: Prepared, costs: Costs, config: CompressConfig) -> list[Planned]:
    return planned(
        config,
        critics=critics_cost(prepared.network, prepared.data.example),
        further=further_cost(prepared.network, prepared.data.example) if config.divided[1] else None,
        fraction=costs.fraction,
        pass_steps=sample_count(prepared.data.train) / prepared.training.batch_size,
    )
