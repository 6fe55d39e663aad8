"""Train a network with critics, in one process or in several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from lctprune.config.given import Given
from lctprune.config.run import CONFIG, Origin, run_settings
from lctprune.config.training import ResolvedTrainConfig, TrainConfig
from lctprune.data.dataset import Data, data_record
from lctprune.data.load import location
from lctprune.data.splits import sample_count
from lctprune.errors import ConfigError, RunError
from lctprune.losses import Distance, Loss, default_loss
from lctprune.measure.loss_trials import is_lowest_at_target
from lctprune.measure.step_costs import group_seconds
from lctprune.network import LocalCriticNetwork
from lctprune.optim.optimizers import resolved_for
from lctprune.run_files import CHECKPOINT, NETWORK_PREFIX
from lctprune.runs import Run, as_run, create_run
from lctprune.training.accelerator import tuned_for
from lctprune.training.blocks import require_blocks
from lctprune.training.distributed.pipeline import Pipeline, require_one_process
from lctprune.training.distributed.process_group import ProcessGroup
from lctprune.training.frozen import frozen
from lctprune.training.interval_log import logged, require_tensorboard
from lctprune.training.loop import Plan, train_epochs
from lctprune.training.mixing import require_mixable
from lctprune.training.planning import distance_of, plan_of
from lctprune.training.preflight import require_trainable
from lctprune.training.progress import Progress
from lctprune.training.recalibration import recalibrate, statistics_of_an_epoch, with_possible_statistics
from lctprune.training.reporting import write_epoch
from lctprune.training.resuming import is_of_earlier_rates, method_to_train_by, require_equal_settings
from lctprune.utils.locking import locked
from lctprune.utils.modules import laid_out, moved, training_layout


def train(
    network: LocalCriticNetwork,
    data: Data,
    config: TrainConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    loss: Loss | None = None,
    distance: Distance | None = None,
    progress: bool | Callable[[Progress], object] = False,
) -> Run:
    """Train a network with critics, in place, and record the training in a run directory.

    By default each group learns from all exits behind it (deep supervision: Lee et al. 2015, arXiv 1409.5185). With the
    method "local-critic", also chosen by settings that only it has and by `distance`, the updates are equations 1 to 7
    of Lee, Hsieh, Lee 2022, as in `local_critic_backward`. A network of one group,
    `LocalCriticNetwork([model])`, is trained by plain backpropagation. PyTorch's global random generator is seeded in
    every step, so that a resumed run repeats an uninterrupted one.

    Args:
        network: network to train; it is left on `config.device`, in evaluation mode, with the weights of the last epoch
            or, with `config.keep` "best", of the best one.
        data: data to train and validate on.
        config: settings of the training; by default `TrainConfig()`.
        run_dir: new or empty directory; by default a new one below `runs/`.
        resume: whether to continue the run in `run_dir` from its last whole epoch.
        loss: loss per sample; by default cross-entropy with `config.label_smoothing` (in validation without), or mean
            squared error where targets are floating-point numbers.
        distance: distance of a critic's output from the next exit's, [batch], where critics distil; by default softened
            Kullback-Leibler divergence for classes, and mean squared error for numbers and labels; or for numbers your
            own `loss`, if it is lowest at the target, as Huber's is.
        progress: whether to write a line about each epoch to stderr; or a function that is called after every step and
            every epoch.

    Raises:
        ConfigError: this machine does not have the device; or without critics `freeze_main` leaves nothing to train, or
            `diagnostics` nothing to examine; or there are more blocks than groups, or `distance` has no effect.
        NetworkError: the network does not run on the data, or cannot be trained in parts; see `require_trainable`.
        RunError: `run_dir` is not empty, or cannot be resumed or written to.
        TrainingError: a loss is not finite. The checkpoint of the last whole epoch stays.
    """
    config = config or TrainConfig()
    if distance is not None and not resume:
        if config.method == "auto":
            config = dataclasses.replace(config, method="local-critic")
        _require_distilling(config, distance)
    run = open_run(network, data, config, run_dir=run_dir, resume=resume, loss=loss)
    report = progress if callable(progress) else write_epoch if progress else None
    for each in train_steps(network, data, run, loss=loss, distance=distance):
        if report is not None:
            report(each)
    return run


def open_run(
    network: LocalCriticNetwork,
    data: Data,
    config: TrainConfig,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    origin: Origin | None = None,
    loss: Loss | None = None,
    given: Callable[[], Given] | None = None,
    processes: ProcessGroup | None = None,
) -> Run:
    """Create the run directory that `train_steps` then fills, or open it again to resume the run.

    Errors are those of `train`.

    Args:
        network: network to train.
        data: data to train and validate on.
        config: settings of the training.
        run_dir: new or empty directory; by default a new one below `runs/`.
        resume: whether to continue the run in `run_dir` from its last whole epoch.
        origin: record of the run that this one is added to, if it is added to one.
        loss: loss per sample, as for `train_steps`, which decides by what exits are compared.
        given: function that measures a network that was trained before, once it and the data have been checked.
        processes: processes that will train, which decide on the method `auto`; None if this one is alone.
    """
    if config.epochs < 1 and given is None:
        raise ConfigError(f"epochs is {config.epochs}; it must be at least 1")
    resumed = Run(run_dir) if resume and run_dir is not None else None
    is_earlier = resumed is not None and is_of_earlier_rates(resumed)
    new = () if is_earlier else config.new_parameters or network.new_parameters
    method = method_to_train_by(config, resumed, processes.size if processes else 1)
    if resumed is None and config.method == "auto" and method == "joint" and not network.critics:
        method = "backprop"  # which is the same
    config = dataclasses.replace(config, new_parameters=new, method=method)
    if config.method == "backprop" and network.critics:
        raise ConfigError(f"backprop trains a network of 1 group; this one has {len(network.groups)}; use 1 group")
    if config.freeze_main and not network.critics and not config.new_parameters:
        raise ConfigError("freezing the main network leaves nothing to train: it has no critics; use 2 groups or more")
    if config.diagnostics and not network.critics:
        raise ConfigError(
            "`diagnostics` examines local gradients, and without critics there are none; use 2 groups or more"
        )
    require_blocks(config.blocks, groups=len(network.groups))
    require_mixable(data.example, config)
    require_tensorboard(config)
    if config.accumulate > (steps := max(1, sample_count(data.train) // config.batch_size)):
        raise ConfigError(f"accumulate is {config.accumulate}; it must be at most the batches of an epoch, {steps}")
    metric = require_trainable(
        network, data, freeze_main=config.freeze_main, loss=loss, metric=config.metric, batch_size=config.batch_size
    )
    config = with_possible_statistics(network.groups, dataclasses.replace(config, metric=metric))
    recipe_has_weights = network.recipe is not None and network.recipe.weights is not None
    is_pretrained = recipe_has_weights and not is_earlier
    settings = run_settings(
        network=network.recipe,
        data=data_record(data),
        training=resolved_for(network.groups, data.example, config, pretrained=is_pretrained),
        origin=None if resume else origin,
        given=given() if given and not resume else None,
    )
    model = network.recipe.model if network.recipe else None
    if not resume:
        return create_run(run_dir, settings, model=model)
    if run_dir is None:
        raise RunError("to resume, name the run directory")
    run = Run(run_dir, model=model, data_path=location(data.config) if data.config else None)
    with locked(run.path / CONFIG, str(run.path)):
        run.prepare_to_resume()
    require_equal_settings(run, settings)
    return run


def train_steps(
    network: LocalCriticNetwork,
    data: Data | None,
    run: str | Path | Run | None,
    *,
    loss: Loss | None = None,
    distance: Distance | None = None,
    validation_loss: Loss | None = None,
    processes: ProcessGroup | None = None,
    replicas: int = 1,
) -> Iterator[Progress]:
    """Train from the run's checkpoint on, like `train`, and yield the progress after every step and every epoch.

    Each of several processes calls this with the same network, and keeps its own groups of it. Only rank 0 needs data
    and a run, which then holds the whole trained network.

    Args:
        network: network with its critics.
        data: data to train and validate on; None in all processes but the first.
        run: run from `open_run`, or its directory; None in all processes but the first.
        loss: loss per sample, as for `train`.
        distance: distance of outputs, as for `train`.
        validation_loss: loss per sample on the validation split; by default `loss`, without label smoothing if that is
            the default one.
        processes: processes from `process_group`.
        replicas: number of pipelines side by side, among which each batch of `batch_size` samples is split.

    Raises:
        ConfigError: the number of processes does not fit the groups, blocks and replicas, or the method; or `distance`
            does not fit the method.
        ProcessLostError: another process has ended.
    """
    run = None if run is None else as_run(run)
    with locked(run.path / CONFIG, str(run.path)) if run else nullcontext():
        yield from _train_steps(
            network,
            data,
            run,
            loss=loss,
            distance=distance,
            validation_loss=validation_loss,
            processes=processes,
            replicas=replicas,
        )


def _train_steps(
    network: LocalCriticNetwork,
    data: Data | None,
    run: Run | None,
    *,
    loss: Loss | None,
    distance: Distance | None,
    validation_loss: Loss | None,
    processes: ProcessGroup | None,
    replicas: int,
) -> Iterator[Progress]:
    plan = plan_of(network, data, run, loss)
    plan = Plan(*processes.broadcast(plan)) if processes else plan
    assert plan is not None, "a process alone needs data and a run"
    config = TrainConfig(**plan.training).resolved()
    require_one_process(config, processes.size if processes else 1)
    _require_distilling(config, distance)
    if distance is None:
        distils = config.method == "local-critic" and any(config.distill) and len(network.critics) > 0
        distance = distance_of(plan, loss, distils=distils)
    pipeline = Pipeline(
        processes, groups=len(network.groups), replicas=replicas, device=config.device, blocks=config.blocks
    )
    validation_loss = validation_loss or loss
    if data is not None:
        _require_same_loss(config.metric, data, validation_loss)
    loss = loss or _default_loss(config, is_regression=plan.is_regression)
    seconds = None
    if pipeline.must_balance:
        seconds = pipeline.broadcast(_group_seconds(network, data, config, loss) if data else None)
    if data is not None and config.batch_norm == "recalibrate" and not plan.epochs_done and not plan.begun:
        recalibrate(network, data.train, config)
    assignment = pipeline.assign(seconds)
    own = nn.ModuleList(network.groups[index] for index in assignment[pipeline.position])
    with frozen(own, config) if config.freeze_main else nullcontext():
        stage = pipeline.stage(network, assignment, config, loss, distance=distance)
        if processes or plan.epochs_done or plan.begun:
            pipeline.scatter(stage, _checkpoint(network, run) if run else None, assignment)
        if processes:
            del network  # this process needs its own groups only
        remaining = plan.steps * (config.epochs - plan.epochs_done)
        with tuned_for(config.device, remaining), statistics_of_an_epoch(own, plan.steps):
            steps = train_epochs(stage, pipeline, data, run, plan, config, validation_loss=validation_loss)
            yield from logged(steps, run, config) if run else steps
    pipeline.close()
    if not processes:
        for trainer in stage.trainers:
            trainer.keep_averages()
        if run and run.config.training.keep == "best" and run.kept_file.name != CHECKPOINT:
            network.load_state_dict(run.load_checkpoint().network)
        network.eval()


def _require_distilling(config: TrainConfig, distance: Distance | None) -> None:
    """Refuse a distance of outputs where critics compare no outputs."""
    if distance is not None and config.method == "joint":
        raise ConfigError(
            "distance compares a critic's outputs with the next exit's, which the method joint does not do; leave it "
            "out, or train with method='local-critic'"
        )


def _require_same_loss(metric: str, data: Data, loss: Loss | None) -> None:
    """Refuse R2 with a loss that was not given to `open_run` and is not lowest at the target, such as BCE of logits."""
    if metric == "r2" and not is_lowest_at_target(loss, data.val.targets):
        raise ConfigError(
            "the run was opened to compare exits by R2, but the loss is not lowest where outputs equal targets; give "
            "the loss to open_run too"
        )


def _default_loss(config: TrainConfig, *, is_regression: bool) -> Loss:
    targets = torch.empty(0, dtype=torch.float if is_regression else torch.long)
    return default_loss(targets, label_smoothing=config.label_smoothing)


def _checkpoint(network: LocalCriticNetwork, run: Run) -> dict[str, Tensor]:
    """Read the run's checkpoint; before its first epoch, take the network as it is."""
    if not (run.path / CHECKPOINT).exists():
        return {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in network.state_dict().items()}
    tensors = run.read_checkpoint("")
    if any(name.startswith("optimizer.") and name.count(".") != 4 for name in tensors):
        raise RunError(
            f"{run.path} was begun by an earlier version, whose optimiser states this one cannot read; train it again"
        )
    return tensors


def _group_seconds(network: LocalCriticNetwork, data: Data, config: ResolvedTrainConfig, loss: Loss) -> list[float]:
    inputs, targets = next(iter(data.train.shuffled(config.batch_size, seed=config.seed)))
    moved(network, config.device)
    with frozen(network.groups, config) if config.freeze_main else nullcontext():
        inputs = laid_out(inputs.to(config.device), training_layout(network, config.device))
        return group_seconds(network, inputs, targets.to(config.device), config, loss=loss)
