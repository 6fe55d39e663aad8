"""Going on with a run needs its directory only, and gives what an uninterrupted training gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import same

import lctprune as lct
from lctprune.workflows.densification import begin_dense
from lctprune.workflows.going_on import started_with

Cli = Callable[..., Any]
CONFIG = {"batch_size": 18, "precision": "fp32"}  # as of the run of the fixture


def begin(trained: lct.Run, path: Path, *, epochs: int = 2, stop: bool = True, weights: bool = False) -> lct.Run:
    """Begin the training of the fixture's run again, and interrupt it after its first epoch, or before it."""
    torch.manual_seed(0)
    data = trained.load_data()
    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 4}, groups=3, num_outputs=3, image_size=16)
    network = lct.build_network(recipe, weights=str(trained.path) if weights else None)
    config = lct.TrainConfig(epochs=epochs, freeze_main=weights, **CONFIG)  # type: ignore[arg-type]
    run = lct.open_run(network, data, config, run_dir=path)
    steps = lct.train_steps(network, data, run)
    for progress in steps if not weights else ():
        if stop and progress.val_accuracy is not None:
            break
    return run


def test_it_goes_on_as_if_it_had_never_stopped(
    trained: lct.Run, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = begin(trained, Path("runs/a"))
    assert run.epochs_done == 1
    document = cli("resume", "--threads", 1, "--json").document  # by itself it finds the run
    assert (document["run"], document["epoch"], document["epochs"]) == ("runs/a", 2, 2)
    assert same(run.read_checkpoint(""), trained.read_checkpoint(""))
    for named in ([], [run.path], [run.path, "--epochs", 2]):
        done = cli("resume", *named, "--threads", 1)
        assert done.code == 0
        assert "runs/a is trained to epoch 2 already" in done.err
        assert "lctprune resume runs/a --epochs 4" in done.err
        assert "Next, choose one under a budget: lctprune select runs/a" in done.out
    assert "no unfinished run" in cli("resume", "--epochs", 3).err
    shutil.rmtree("runs")
    assert "no unfinished run" in cli("resume").err


def test_a_finished_run_is_trained_longer(trained: lct.Run, cli: Cli) -> None:
    before = trained.metrics
    (trained.path / "narrowed").mkdir()
    refused = cli("resume", trained.path, "--epochs", 3, "--processes", 2)
    assert (refused.code, refused.err.count("\n")) == (2, 3)  # and lines on the rate and the networks added
    assert "--method joint needs the whole network in one process" in refused.err
    result = cli("resume", trained.path, "--epochs", 3, "--threads", 1)
    assert result.code == 0, result.err
    assert "the learning rate goes on as in a training of 3 epochs" in result.err
    assert "they no longer count once these are trained further" in " ".join(result.err.split())
    run = lct.Run(trained.path)
    assert (run.epochs_done, run.config.training.epochs, run.config.to_dict()["epochs_before"]) == (3, 3, [2])
    assert run.metrics[:2] == before
    assert cli("resume", run.path, "--epochs", 2).code == 2
    done = cli("resume", run.path, "--epochs", 3, "--json")
    assert (done.code, len(done.document["candidates"])) == (0, 3)
    assert run.config.to_dict() == lct.Run(trained.path).config.to_dict()  # a refusal changes nothing


def test_weights_are_taken_again_where_no_epoch_was_finished(trained: lct.Run, cli: Cli, tmp_path: Path) -> None:
    run = begin(trained, tmp_path / "frozen", epochs=1, weights=True)
    assert run.epochs_done == 0
    assert cli("resume", run.path, "--threads", 1).code == 0
    main = [lct.load_network(each.path).main_state_dict() for each in (run, trained)]
    assert same(*main)


@pytest.mark.parametrize(
    ("command", "expected"),
    [("train resnet --processes 4", 4), ("train --processes=2 mlp", 2), ("train mlp", 1), ("train --processes", 1)],
)
def test_the_number_of_processes_is_that_of_the_command(command: str, expected: int, trained: lct.Run) -> None:
    trained.config.document["command"][:] = command.split()
    assert started_with(trained, "--processes") == expected


def test_what_was_added_and_interrupted_is_found(
    trained: lct.Run, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.path, "runs/a")
    for progress in begin_dense(lct.Run("runs/a"), epochs=2).steps():
        if progress.val_accuracy is not None:
            break
    result = cli("resume", "--threads", 1)
    assert (result.code, "Going on with runs/a/dense, from epoch 2" in result.err) == (0, True), result.err
    done = cli("resume", "--threads", 1)
    assert (done.code, "runs/a is trained to epoch 2 already" in done.err) == (0, True)
    assert " x0.5" in done.out
