"""`lctprune train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from lctprune.cli.adding import add_critics
from lctprune.cli.console import printed_warnings, stderr, stdout
from lctprune.cli.measured import CSV, JsonOption, ThreadsOption, refresh_results, show_candidates
from lctprune.cli.parsing import arguments, data_name, group_count, names, numbers, require_of_use
from lctprune.cli.progress import show_progress
from lctprune.cli.ranks import end_as_lost
from lctprune.config.data import DataConfig
from lctprune.config.fields import help_of
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.data.dataset import Data, split_sizes
from lctprune.errors import ConfigError
from lctprune.models.external import is_own_function
from lctprune.runs import Run
from lctprune.training.distributed.pipeline import require_one_process, require_processes
from lctprune.training.distributed.process_group import (
    ProcessGroup,
    is_started,
    local_processes,
    process_count,
    process_group,
)
from lctprune.training.trainer import train_steps
from lctprune.workflows.deployment import measure_run
from lctprune.workflows.members import DENSE
from lctprune.workflows.session import Job, begin

NETWORK, DATA, TRAINING = NetworkConfig(), DataConfig(), TrainConfig()


def _option(config: type, name: str, *flags: str) -> Any:
    return typer.Option(*flags, help=help_of(config, name))


def train(
    model: Annotated[str, typer.Argument(help=help_of(NetworkConfig, "model"))],
    data: Annotated[str, _option(DataConfig, "name")] = DATA.name,
    data_dir: Annotated[str, _option(DataConfig, "data_dir")] = DATA.data_dir,
    download: Annotated[bool, typer.Option("--download", help="Download the data set if it is not there.")] = False,
    image_size: Annotated[int | None, _option(DataConfig, "image_size")] = None,
    augment: Annotated[str, _option(DataConfig, "augment")] = DATA.augment,
    shift: Annotated[float, _option(DataConfig, "shift")] = DATA.shift,
    val_fraction: Annotated[float, _option(DataConfig, "val_fraction")] = DATA.val_fraction,
    method: Annotated[str, _option(TrainConfig, "method")] = TRAINING.method,
    groups: Annotated[int | None, typer.Option(help=f"{help_of(NetworkConfig, 'groups')} Default: 4.")] = None,
    split_at: Annotated[
        str | None, typer.Option(help=f"{help_of(NetworkConfig, 'split_at')} Comma-separated, as layer1,layer2.")
    ] = None,
    balance: Annotated[str, _option(NetworkConfig, "balance")] = NETWORK.balance,
    model_args: Annotated[str | None, _option(NetworkConfig, "model_args")] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Start from these weights of the model: a file, a run directory, or default, its own."),
    ] = None,
    freeze_main: Annotated[bool, _option(TrainConfig, "freeze_main", "--freeze-main")] = TRAINING.freeze_main,
    critic: Annotated[str, _option(NetworkConfig, "critic")] = NETWORK.critic,
    critic_depth: Annotated[
        str | None, typer.Option(help=f"{help_of(NetworkConfig, 'critic_depth')} One number, or one each: 3,2,1.")
    ] = None,
    critic_width: Annotated[
        str | None, typer.Option(help=f"{help_of(NetworkConfig, 'critic_width')} One number, or one each: 1,1,0.5.")
    ] = None,
    critic_pool: Annotated[str, _option(NetworkConfig, "critic_pool")] = NETWORK.critic_pool,
    epochs: Annotated[int, _option(TrainConfig, "epochs")] = TRAINING.epochs,
    batch_size: Annotated[int, _option(TrainConfig, "batch_size")] = TRAINING.batch_size,
    optimizer: Annotated[str, _option(TrainConfig, "optimizer")] = TRAINING.optimizer,
    lr: Annotated[float | None, _option(TrainConfig, "lr")] = TRAINING.lr,
    weight_decay: Annotated[float, _option(TrainConfig, "weight_decay")] = TRAINING.weight_decay,
    schedule: Annotated[str, _option(TrainConfig, "schedule")] = TRAINING.schedule,
    warmup: Annotated[float, _option(TrainConfig, "warmup")] = TRAINING.warmup,
    label_smoothing: Annotated[float, _option(TrainConfig, "label_smoothing")] = TRAINING.label_smoothing,
    matching: Annotated[str, _option(TrainConfig, "matching")] = str(TRAINING.matching),
    distill: Annotated[str, _option(TrainConfig, "distill")] = str(TRAINING.distill),
    critic_period: Annotated[int, _option(TrainConfig, "critic_period")] = TRAINING.critic_period,
    critic_optimizer: Annotated[str, _option(TrainConfig, "critic_optimizer")] = TRAINING.critic_optimizer,
    diagnostics: Annotated[bool, _option(TrainConfig, "diagnostics", "--diagnostics")] = TRAINING.diagnostics,
    precision: Annotated[str, _option(TrainConfig, "precision")] = TRAINING.precision,
    device: Annotated[str, _option(TrainConfig, "device")] = TRAINING.device,
    compile: Annotated[bool, _option(TrainConfig, "compile", "--compile")] = TRAINING.compile,
    threads: ThreadsOption = None,
    task: Annotated[str, _option(DataConfig, "task")] = DATA.task,
    target: Annotated[str | None, _option(DataConfig, "target")] = None,
    max_length: Annotated[int, _option(DataConfig, "max_length")] = DATA.max_length,
    seed: Annotated[int, typer.Option(help="Of the weights, the order of samples and the validation split.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run directory, new or empty. Default: one below runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out from its last epoch.")] = False,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Local processes, each of which trains its own groups; or start them by torchrun."),
    ] = 1,
    replicas: Annotated[
        int, typer.Option(min=1, help="Copies of each group, each on its own batch of --batch-size.")
    ] = 1,
    timeout: Annotated[
        float, typer.Option(min=3, help="Seconds after which a process that gives no sign of life is lost.")
    ] = 20,
    dense: Annotated[
        bool, typer.Option("--dense", help="Then add critics at further places, and narrower ones: lctprune densify.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train a network with local critics: every exit becomes a network of its own.

    Examples:

    lctprune train resnet

    lctprune train resnet --data path/to/folder --epochs 8

    lctprune train vgg-lct --data DIR --critic paper --critic-optimizer adam --optimizer sgd --matching 1 --distill 0
    """
    if method == "backprop" and (split_at or groups not in (None, 1)):
        raise ConfigError("--method backprop trains the network whole; leave out --groups and --split-at")
    if not resume:
        require_of_use(method, locals())
    data_config = DataConfig(
        name=data_name(data),
        data_dir=str(Path(data_dir).absolute()),
        image_size=image_size,
        augment=augment,
        shift=shift,
        val_fraction=val_fraction,
        task=task,
        target=target,
        max_length=max_length,
        seed=seed,
    )
    config = TrainConfig(
        method=method,
        epochs=epochs,
        batch_size=batch_size * replicas,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule,
        warmup=warmup,
        label_smoothing=label_smoothing,
        matching=matching,
        distill=distill,
        critic_period=critic_period,
        critic_optimizer=critic_optimizer,
        freeze_main=freeze_main,
        diagnostics=diagnostics,
        precision=precision,
        device=device,
        compile=compile,
        seed=seed,
    )
    network_config = NetworkConfig(
        model=model,
        groups=1 if method == "backprop" else group_count(groups, split_at),
        split_at=names(split_at),
        balance=balance,
        model_args=arguments(model_args),
        critic=critic,
        critic_depth=numbers("critic depth", critic_depth, int),
        critic_width=numbers("critic width", critic_width, float),
        critic_pool=critic_pool,
    )
    job = Job(
        network=network_config,
        data=data_config,
        training=config,
        weights=weights,
        download=download,
        out=out,
        resume=resume,
        dense=dense,
    )
    require_processes(process_count(processes), groups=network_config.groups, replicas=replicas)
    require_one_process(config, process_count(processes))
    if processes > 1 and not is_started():
        from lctprune.training.distributed.launcher import launch  # torch's launcher takes a while to import

        launch(processes, sys.argv[1:])
        return
    cores = torch.get_num_threads()
    torch.set_num_threads(threads or max(1, cores // local_processes()))
    with process_group(device=config.resolved().device, timeout_s=timeout, on_lost=end_as_lost) as group:
        run = _train(job, group, replicas)
        if run is not None:  # the others wait for rank 0
            torch.set_num_threads(threads or cores)
            if dense:
                add_critics(run, resume=resume and (run.path / DENSE).exists())
            candidates = measure_run(run)
    if run is None:
        return
    if (run.path / CSV).exists():  # it was selected from before it was trained to its end
        refresh_results(run, candidates)
    networks = "networks" if dense else "exits"
    show_candidates(run, candidates, f"\nTrained {run.path}; its {networks} on the validation split", json=json)
    if not json:
        named = f" --model {model}" if is_own_function(model) else ""
        stdout().print(f"Next, choose one under a budget: lctprune select {run.path} --budget-flops 60%{named}")


def _train(job: Job, group: ProcessGroup | None, replicas: int) -> Run | None:
    """The trained run; None in all processes but the first."""
    with printed_warnings(stderr()):
        network, data, run = begin(job, group, replicas=replicas)
    steps = train_steps(network, data, run, processes=group, replicas=replicas)
    del network  # of which a process of several keeps its own groups only
    if run is None or data is None:
        for _ in steps:
            pass
        return None
    _announce(run, data, stderr(), group)
    show_progress(steps, stderr())
    return run


def _objective(training: dict[str, Any]) -> str:
    if training["method"] != "local-critic":
        return f"method {training['method']}"
    return f"matching {training['matching']}, distill {training['distill']}"


def _announce(run: Run, data: Data, console: Console, group: ProcessGroup | None) -> None:
    network, training = run.config["network"], run.config["training"]
    sizes = split_sizes(data)
    outputs = f"{len(data.classes)} classes" if data.classes else "regression"
    console.print(
        f"Training {network['model']} in {_counted(network['groups'], 'group')} on "
        f"{run.config['data']['config']['name']} ({sizes['train']} train, {sizes['val']} validation, "
        f"{sizes['test']} test samples, {outputs})"
    )
    console.print(
        f"{_counted(training['epochs'], 'epoch')}, batch {training['batch_size']}, {training['optimizer']}, "
        f"{training['precision']} on {training['device']} with {_counted(torch.get_num_threads(), 'thread')}"
        f"{f' in each of {group.size} processes' if group else ''}, "
        f"{_objective(training)}; run directory {run.path}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
