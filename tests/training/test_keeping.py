"""A training that is stopped within an epoch goes on from there, to the bit; one process writes a run at a time."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lctprune as lct
from lctprune.training.keeping import Keeper
from lctprune.training.trainer import open_run, train_steps
from lctprune.utils.locking import locked

MakeNetwork = Callable[..., lct.LocalCriticNetwork]
CONFIG = lct.TrainConfig(epochs=2, batch_size=18, precision="fp32", checkpoint_every=2, critic_period=2)


@pytest.fixture
def augmented(image_folder: Path) -> lct.Data:
    return lct.load_data(lct.DataConfig(name=str(image_folder), augment="crop-flip"))


def network() -> lct.LocalCriticNetwork:
    torch.manual_seed(0)
    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 2}, groups=2, num_outputs=3, image_size=8)
    return lct.build_network(recipe)


def without_speed(run: lct.Run) -> list[dict[str, Any]]:
    return [{name: cell for name, cell in row.items() if name != "images_per_s"} for row in run.metrics]


@pytest.mark.parametrize(("epoch", "step", "by_signal"), [(1, 1, True), (2, 1, True), (1, 2, False), (2, 2, False)])
def test_what_was_stopped_within_an_epoch_goes_on_to_the_bit(
    epoch: int, step: int, by_signal: bool, augmented: lct.Data, tmp_path: Path
) -> None:
    whole = lct.train(network(), augmented, CONFIG, run_dir=tmp_path / "whole")
    stopped = network()
    run = open_run(stopped, augmented, CONFIG, run_dir=tmp_path / "run")
    steps = train_steps(stopped, augmented, run)
    for progress in steps:
        if progress.epoch == epoch and progress.step == step + (not by_signal):
            break  # as if it was killed
    if by_signal:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match=r"SIGTERM, after a checkpoint in .*run$"):
            next(steps)
    steps.close()
    assert (run.header.epoch, run.header.step) == (epoch - 1, step)
    resumed = lct.train(network(), augmented, CONFIG, run_dir=run.path, resume=True)
    tensors, again = whole.read_checkpoint(""), resumed.read_checkpoint("")
    assert tensors.keys() == again.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], again[name])] == []
    assert without_speed(resumed) == without_speed(whole)


def test_two_processes_do_not_write_one_run(augmented: lct.Data, tmp_path: Path) -> None:
    config = lct.TrainConfig(epochs=1, batch_size=18, precision="fp32")
    run = lct.train(network(), augmented, config, run_dir=tmp_path / "run")
    code = (
        "import sys, pathlib; from lctprune.utils.locking import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), 'it'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(run.path / "config.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(lct.RunError, match=rf"run is written by another process.*{other.pid}"):
            lct.train(network(), augmented, config, run_dir=run.path, resume=True)
        other.kill()
    with locked(run.path / "config.json", "it"):  # no lock outlives its process
        pass


def test_metrics_that_were_lost_are_restored_from_the_checkpoint(augmented: lct.Data, tmp_path: Path) -> None:
    run = lct.train(network(), augmented, CONFIG, run_dir=tmp_path / "run")
    before = without_speed(run)
    lines = (run.path / "metrics.csv").read_text().splitlines(keepends=True)
    for content in (None, "", lines[0], "".join(lines[:2]), "".join(lines).replace("\n2,", "\n3,"), "\udcff"):
        (run.path / "metrics.csv").unlink()
        if content is not None:
            (run.path / "metrics.csv").write_text(content, errors="surrogateescape")
        with pytest.warns(lct.RunWarning, match=r"metrics\.csv.*restored"):
            lct.train(network(), augmented, CONFIG, run_dir=run.path, resume=True)
        assert without_speed(run) == before


def test_a_run_that_is_removed_or_a_full_disk_end_the_training(augmented: lct.Data, tmp_path: Path) -> None:
    trained = network()
    run = open_run(trained, augmented, CONFIG, run_dir=tmp_path / "run")
    steps = train_steps(trained, augmented, run)
    next(steps)
    run.path.rename(tmp_path / "elsewhere")
    with pytest.raises(lct.RunError, match=r"run/checkpoint\.safetensors cannot be written.*moved or removed"):
        list(steps)
    assert not run.path.exists()
    shutil.rmtree(tmp_path / "elsewhere")


@pytest.mark.slow
def test_memory_files_and_threads_stay_flat_over_2000_steps(tmp_path: Path) -> None:
    def resources() -> tuple[float, int, int]:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20, *(
            sum(1 for _ in Path(f"/proc/self/{name}").iterdir()) for name in ("fd", "task")
        )

    recipe = lct.NetworkConfig(model="mlp", model_args={"width": 8}, groups=2, num_outputs=3, features=16)
    trained, split = lct.build_network(recipe), lct.TensorSplit(torch.randn(200, 16), torch.arange(200) % 3)
    data = lct.Data(train=split, val=split, test=split, classes=("a", "b", "c"))
    run = open_run(
        trained, data, lct.TrainConfig(epochs=92, batch_size=8, checkpoint_every=10), run_dir=tmp_path / "run"
    )
    found = [resources() for index, _ in enumerate(train_steps(trained, data, run)) if index in (300, 2299)]
    assert found[1][0] - found[0][0] < 20  # MiB in 2,000 steps
    assert found[1][1:] == found[0][1:]


def test_a_signal_after_the_last_step_is_not_lost() -> None:
    keeper = Keeper(None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a shell ignores
    try:
        with pytest.raises(KeyboardInterrupt), keeper.listening():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert keeper.wish == "SIGINT"
    with Keeper(None, decides=False).listening():  # another process decides
        signal.raise_signal(signal.SIGINT)
