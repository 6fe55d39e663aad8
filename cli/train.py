"""`lctprune train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lctprune.cli.console import print_json, print_notes, printed_warnings, quantity, stderr, stdout
from lctprune.cli.options import (
    SWITCH,
    DownloadOption,
    JsonOption,
    NetworkArgument,
    RunDirectoryOption,
    Settings,
    ThreadsOption,
    with_settings,
)
from lctprune.cli.parsing import OBJECTIVE, data_places, group_count, require_effect, with_objective
from lctprune.config.data import DataConfig
from lctprune.config.fields import FIRST, NETWORK
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.errors import ConfigError, RunError, TrainingInterrupted
from lctprune.utils.names import shell_word
from lctprune.utils.wording import counted

if TYPE_CHECKING:
    from lctprune.data.dataset import Data
    from lctprune.runs import Run
    from lctprune.training.distributed.process_group import ProcessGroup
    from lctprune.workflows.session_settings import SessionSettings

PROCESSES = "Processes"  # heading of --help
INPUTS = ("num_outputs", "in_channels", "image_size", "steps", "features", "vocabulary")  # the data says them


@with_settings
def train(
    model: NetworkArgument,
    data: Annotated[dict[str, Any], Settings(DataConfig, names={"name": "data"})],
    network: Annotated[dict[str, Any], Settings(NetworkConfig, without=INPUTS, unset=("groups",))],
    training: Annotated[dict[str, Any], Settings(TrainConfig, unset=OBJECTIVE)],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|RUN",
            rich_help_panel=FIRST,
            help="Weights of the model to start from: a state dict, a run directory, or default, the model's own.",
        ),
    ] = None,
    out: RunDirectoryOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", metavar=SWITCH, rich_help_panel=FIRST, help="Continue the run in --out from its last epoch."
        ),
    ] = False,
    download: DownloadOption = False,
    dense: Annotated[
        bool,
        typer.Option(
            "--dense",
            metavar=SWITCH,
            rich_help_panel=NETWORK,
            help="Afterwards add critics at further cut points, and narrower ones, as lctprune densify does.",
        ),
    ] = False,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel=PROCESSES,
            help="Processes on this machine, each of which trains its own groups. (Or start them with torchrun.)",
        ),
    ] = 1,
    replicas: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel=PROCESSES,
            help="Copies of each group, each of which takes its own batches of --batch-size samples.",
        ),
    ] = 1,
    timeout: Annotated[
        float,
        typer.Option(
            min=3,
            metavar="SECONDS",
            rich_help_panel=PROCESSES,
            help="Give up on a process that has shown no sign of life for so long.",
        ),
    ] = 20,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Train a network with critics: every exit becomes a network of its own.

    Examples:
    lctprune train resnet

    lctprune train resnet --data path/to/folder --epochs 8

    lctprune train vgg-lct --data DIR --critic paper --critic-optimizer adam --optimizer sgd --matching 1 --distill 0
    """
    if resume and out is None:
        raise RunError("to resume, name the run directory: --out DIR")
    if training["method"] == "backprop" and (network["split_at"] or network["groups"] not in (None, 1)):
        raise ConfigError("--method backprop trains the network whole; leave out --groups and --split-at")
    training, note = with_objective(training)
    if not resume:
        require_effect(training["method"], network | training)
    groups = 1 if training["method"] == "backprop" else group_count(network)
    config = TrainConfig(**training | {"batch_size": training["batch_size"] * replicas})

    from lctprune.cli.working import load_pytorch

    load_pytorch(model)
    from lctprune.training.distributed.process_group import process_count
    from lctprune.workflows.session_settings import SessionSettings

    if note and not resume and process_count(processes) == 1:
        stderr().print(f"Note: {note}.")
    settings = SessionSettings(
        network=NetworkConfig(model=model, **network | {"groups": groups}),
        data=DataConfig(**data_places(data), seed=config.seed),
        training=config,
        weights=weights,
        download=download,
        out=out,
        resume=resume,
        dense=dense,
    )
    start(settings, sys.argv[1:], processes=processes, replicas=replicas, timeout=timeout, threads=threads, json=json)


def start(
    settings: SessionSettings,
    arguments: Sequence[str],
    *,
    processes: int,
    replicas: int,
    timeout: float,
    threads: int | None,
    json: bool,
) -> None:
    """Train here, or in the processes that are asked for, each of which is started with the command's arguments."""
    from lctprune.training.distributed.pipeline import require_one_process, require_processes
    from lctprune.training.distributed.process_group import is_started, process_count

    count = process_count(processes)
    require_processes(count, groups=settings.network.groups, replicas=replicas, blocks=settings.training.blocks)
    require_one_process(settings.training_in(count), count)
    if processes > 1 and not is_started():
        from lctprune.cli.progress import InterruptedCommand
        from lctprune.training.distributed.launcher import launch

        try:
            launch(processes, arguments, timeout_s=timeout)
        except TrainingInterrupted as error:  # which says how to go on
            raise InterruptedCommand(str(error)) from error
        except KeyboardInterrupt as error:
            named = f" {shell_word(settings.out)}" if settings.out else ""
            raise InterruptedCommand.of(error, f"to go on: lctprune resume{named}") from error
        return
    import torch

    from lctprune.cli.ranks import end_as_lost
    from lctprune.training.distributed.process_group import local_processes, process_group

    cores = torch.get_num_threads()
    torch.set_num_threads(threads or max(1, cores // local_processes()))
    device = settings.training.resolved().device
    with process_group(device=device, timeout_s=timeout, on_lost=end_as_lost) as group:
        run = _train(settings, group, replicas)
        if run is not None:  # the others wait for rank 0
            torch.set_num_threads(threads or cores)
            _finish(run, settings, json=json)


def _finish(run: Run, settings: SessionSettings, *, json: bool) -> None:
    """Densify the front if that is asked for, then measure and show all exits."""
    from lctprune.cli.densify import add_critics
    from lctprune.cli.progress import resumable
    from lctprune.cli.results import CSV, given_record, refresh_results, show_candidates
    from lctprune.cli.working import working
    from lctprune.workflows.deployment import measure_run
    from lctprune.workflows.loading import LoadedRun
    from lctprune.workflows.members import DENSE
    from lctprune.workflows.next_steps import behind_its_exits, better_epoch, next_step

    if settings.training.epochs == 0:
        if json:
            print_json({"run": str(run.path), "split": "validation", **given_record(run), "candidates": []})
        return
    if settings.dense:
        add_critics(run, resume=settings.resume and (run.path / DENSE).exists())
    loaded = LoadedRun(run)
    if (ended := run.epochs_done) < settings.training.epochs:
        stderr().print(
            f"No exit became better in {counted(settings.training.patience or 0, 'epoch')}, so training ended after "
            f"epoch {ended} of {settings.training.epochs}."
        )
    with resumable(run):
        with working("Measuring every exit on the validation split"):
            candidates = measure_run(run, loaded=loaded)
        if (run.path / CSV).exists():  # it was selected from before it was trained to its end
            refresh_results(loaded, candidates, run.path)
    networks = "networks" if settings.dense else "exits"
    headline = f"\nTrained {run.path}; its {networks} on the validation split"
    show_candidates(run, candidates, headline, epochs=loaded.epochs, json=json)
    if not json:
        for note in filter(None, (better_epoch(run), behind_its_exits(run, candidates))):
            stderr().print(f"Note: {note}.", soft_wrap=True)
        stdout().print(next_step(run, candidates), soft_wrap=True)  # so that it can be copied


def _train(settings: SessionSettings, group: ProcessGroup | None, replicas: int) -> Run | None:
    """Train and return the run; None in all processes but the first."""
    from lctprune.cli.progress import show_interruptible
    from lctprune.cli.working import working
    from lctprune.measure.costs import count_parameters
    from lctprune.workflows.session import begin

    is_first = group is None or group.rank == 0  # of several processes, one says what is done
    with working("Reading the data, and preparing the network") if is_first else printed_warnings(stderr()):
        session = begin(settings, group, replicas=replicas)
    print_notes(stderr(), session.network.notes)
    data, run = session.data, session.run
    parameters = count_parameters(session.network.groups)
    steps = session.steps(group, replicas=replicas)
    del session  # a process of several keeps its own groups of the network only
    if run is None or data is None:
        for _ in steps:
            pass
        return None
    _announce(run, data, parameters, stderr(), group)
    show_interruptible(steps, run)
    return run


def _announce(run: Run, data: Data, parameters: int, console: Console, group: ProcessGroup | None) -> None:
    import torch

    from lctprune.config.metric import score_text
    from lctprune.data.dataset import split_sizes
    from lctprune.data.tables.encoding import summary

    network, training = run.config.network, run.config.training
    assert network is not None  # a session builds it by its settings
    sizes = split_sizes(data)
    outputs = f"{len(data.classes)} classes" if data.classes else "regression"
    arguments = ", ".join(f"{name}={value}" for name, value in network.model_args.items())
    method = training.method + (f" in {counted(training.blocks, 'block')}" if training.blocks else "")
    console.print(
        f"Training {network.model}{f' ({arguments})' if arguments else ''} in {counted(network.groups, 'group')} on "
        f"{data.config.name if data.config else 'data'} ({sizes['train']} train, {sizes['val']} validation, "
        f"{sizes['test']} test samples, {outputs})"
    )
    if data.preprocessing:
        numbers = [",".join(f"{each:.4g}" for each in values) for values in data.normalization or ()]
        console.print(f"Images: {data.preprocessing}{', mean {}, std {}'.format(*numbers) if numbers else ''}")
    elif data.encoding:
        console.print(f"Table: {summary(data.encoding)}")
    elif data.example.dim() == 4:
        height, width = data.example.shape[-2:]
        console.print(f"Images: {height} x {width} pixels")
    if given := run.config.given:
        console.print(
            f"Given network, before training: {given.metric} {score_text(given.score, given.metric)}, loss "
            f"{given.loss:.4g} on {given.samples} validation samples{', with a new classifier' if given.new else ''}"
        )
    console.print(
        f"{quantity(parameters)} parameters; {counted(training.epochs, 'epoch')}, batch {training.batch_size}, "
        f"{training.optimizer}, {training.precision} on {training.device} with "
        f"{counted(torch.get_num_threads(), 'thread')}{f' in each of {group.size} processes' if group else ''}"
        f", method {method}; run directory {run.path}"
    )
