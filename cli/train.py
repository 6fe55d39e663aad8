"""`lctprune train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from lctprune.cli.console import UNITS, print_candidates, print_json, stderr, stdout
from lctprune.cli.measured import JsonOption, ThreadsOption
from lctprune.cli.parsing import data_name, group_count, names, numbers
from lctprune.cli.progress import show_progress
from lctprune.data import DataConfig, load_data
from lctprune.deployment import candidate_record, measure_run
from lctprune.errors import ConfigError
from lctprune.models import NetworkConfig, build_network
from lctprune.runs import Run, split_sizes
from lctprune.settings import help_of
from lctprune.train_config import TrainConfig
from lctprune.training import open_run, train_steps

NETWORK, DATA, TRAINING = NetworkConfig(), DataConfig(), TrainConfig()


def _option(config: type, name: str, *flags: str) -> Any:
    return typer.Option(*flags, help=help_of(config, name))


def train(
    model: Annotated[str, typer.Argument(help="Built-in network: resnet (resnet18), resnet34, resnet50, vgg-lct, ...")],
    data: Annotated[str, _option(DataConfig, "name")] = DATA.name,
    data_dir: Annotated[str, _option(DataConfig, "data_dir")] = DATA.data_dir,
    download: Annotated[bool, typer.Option("--download", help="Download the data set if it is not there.")] = False,
    image_size: Annotated[int | None, _option(DataConfig, "image_size")] = None,
    augment: Annotated[str, _option(DataConfig, "augment")] = DATA.augment,
    val_fraction: Annotated[float, _option(DataConfig, "val_fraction")] = DATA.val_fraction,
    method: Annotated[
        str, typer.Option(help="local-critic, or backprop: the plain network, as the reference.")
    ] = "local-critic",
    groups: Annotated[int | None, typer.Option(help=f"{help_of(NetworkConfig, 'groups')} Default: 4.")] = None,
    split_at: Annotated[
        str | None, typer.Option(help=f"{help_of(NetworkConfig, 'split_at')} Comma-separated, as layer1,layer2.")
    ] = None,
    critic: Annotated[str, _option(NetworkConfig, "critic")] = NETWORK.critic,
    critic_depth: Annotated[
        str | None, typer.Option(help=f"{help_of(NetworkConfig, 'critic_depth')} One number, or one each: 3,2,1.")
    ] = None,
    epochs: Annotated[int, _option(TrainConfig, "epochs")] = TRAINING.epochs,
    batch_size: Annotated[int, _option(TrainConfig, "batch_size")] = TRAINING.batch_size,
    lr: Annotated[float, _option(TrainConfig, "lr")] = TRAINING.lr,
    weight_decay: Annotated[float, _option(TrainConfig, "weight_decay")] = TRAINING.weight_decay,
    schedule: Annotated[str, _option(TrainConfig, "schedule")] = TRAINING.schedule,
    warmup: Annotated[float, _option(TrainConfig, "warmup")] = TRAINING.warmup,
    label_smoothing: Annotated[float, _option(TrainConfig, "label_smoothing")] = TRAINING.label_smoothing,
    matching: Annotated[str, _option(TrainConfig, "matching")] = str(TRAINING.matching),
    critic_period: Annotated[int, _option(TrainConfig, "critic_period")] = TRAINING.critic_period,
    critic_optimizer: Annotated[str, _option(TrainConfig, "critic_optimizer")] = TRAINING.critic_optimizer,
    precision: Annotated[str, _option(TrainConfig, "precision")] = TRAINING.precision,
    device: Annotated[str, _option(TrainConfig, "device")] = TRAINING.device,
    compile: Annotated[bool, _option(TrainConfig, "compile", "--compile")] = TRAINING.compile,
    threads: ThreadsOption = None,
    seed: Annotated[int, typer.Option(help="Of the weights, the order of samples and the validation split.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run directory, new or empty. Default: one below runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out from its last epoch.")] = False,
    json: JsonOption = False,
) -> None:
    """Train a network with local critics: every exit becomes a network of its own.

    Examples:

    lctprune train resnet

    lctprune train resnet --data path/to/folder --epochs 8

    lctprune train vgg-lct --data cifar10 --download --critic paper --critic-optimizer adam --matching 1 --schedule step
    """
    if method not in ("local-critic", "backprop"):
        raise ConfigError(f"method is {method!r}; it must be local-critic or backprop")
    if method == "backprop" and (split_at or groups not in (None, 1)):
        raise ConfigError("--method backprop trains the network whole; leave out --groups and --split-at")
    if threads is not None:
        torch.set_num_threads(threads)
    data_config = DataConfig(
        name=data_name(data),
        data_dir=str(Path(data_dir).absolute()),
        image_size=image_size,
        augment=augment,
        val_fraction=val_fraction,
        seed=seed,
    )
    config = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule,
        warmup=warmup,
        label_smoothing=label_smoothing,
        matching=matching,
        critic_period=critic_period,
        critic_optimizer=critic_optimizer,
        precision=precision,
        device=device,
        compile=compile,
        seed=seed,
    )
    network_config = NetworkConfig(
        model=model,
        groups=1 if method == "backprop" else group_count(groups, split_at),
        split_at=names(split_at),
        critic=critic,
        critic_depth=numbers(critic_depth),
    )
    run = _train(network_config, data_config, config, out=out, resume=resume, download=download, console=stderr())
    candidates = measure_run(run)
    if json:
        print_json({"run": str(run.path), "candidates": [candidate_record(candidate) for candidate in candidates]})
        return
    console = stdout()
    console.print(f"\nTrained {run.path}. Its exits on the validation split:\n")
    print_candidates(console, candidates)
    console.print(f"\n{UNITS.format(batch=1)}.")
    console.print(f"Next, choose one under a budget: lctprune select {run.path} --budget-flops 60%")


def _train(
    network_config: NetworkConfig,
    data_config: DataConfig,
    config: TrainConfig,
    *,
    out: Path | None,
    resume: bool,
    download: bool,
    console: Console,
) -> Run:
    data = load_data(data_config, download=download)
    example = data.example
    network_config = dataclasses.replace(
        network_config, num_outputs=len(data.classes), in_channels=example.shape[1], image_size=example.shape[2]
    )
    torch.manual_seed(config.seed)
    network = build_network(network_config)
    run = open_run(network, data, config, run_dir=out, resume=resume)
    resolved = run.config["training"]
    sizes = split_sizes(data)
    console.print(
        f"Training {network_config.model} in {network_config.groups} groups on {data_config.name} "
        f"({sizes['train']} train, {sizes['val']} validation, {sizes['test']} test images, {len(data.classes)} classes)"
    )
    console.print(
        f"{resolved['epochs']} epochs, batch {resolved['batch_size']}, {resolved['precision']} on {resolved['device']} "
        f"with {torch.get_num_threads()} threads, matching {resolved['matching']}; run directory {run.path}"
    )
    show_progress(train_steps(network, data, run), console)
    return run
