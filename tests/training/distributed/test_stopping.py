"""Several processes that are asked to stop keep a checkpoint within the epoch, and go on to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from started import children, exists, learnt, start, wait_for

import lctprune as lct

pytestmark = pytest.mark.slow
PATIENCE = 200  # seconds
TRAINING = (
    "train lstm --data digits-rows --method local-critic --groups 4 --model-args layers=4,dropout=0.2 "
    "--threads 1 --batch-size 16 --epochs 2"
).split()


def ended(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in err
    assert "Exception raised from" not in err  # in C++
    return err


@pytest.mark.parametrize(
    ("number", "options"),
    [(signal.SIGTERM, []), (signal.SIGHUP, []), (signal.SIGINT, []), (signal.SIGKILL, ["--checkpoint-every", "10"])],
)
def test_a_signal_to_the_launcher_loses_no_step(number: int, options: list[str], tmp_path: Path) -> None:
    process = start(*TRAINING, "--processes", "2", "--out", "run", *options, cwd=tmp_path)
    wait_for(lambda: (tmp_path / "run" / "checkpoint.safetensors").exists() or process.poll() is not None, PATIENCE)
    time.sleep(1)
    ranks = children(process.pid)
    os.kill(process.pid, number)
    said = ended(process)
    wait_for(lambda: not any(exists(rank) for rank in ranks), PATIENCE)
    header = lct.Run(tmp_path / "run").header
    assert header.step > 0
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert said.endswith(
            f"error: stopped by {signal.Signals(number).name}, after a checkpoint in run; to go on from epoch 2, step "
            f"{header.step + 1}: lctprune resume run\n"
        )
    resumed = start("resume", "run", cwd=tmp_path)
    ended(resumed)
    assert resumed.returncode == 0
    assert not list(tmp_path.glob("lctprune-ranks-*"))
    whole = start(*TRAINING, "--out", "whole", cwd=tmp_path)
    ended(whole)
    one, other = (safetensors.torch.load_file(tmp_path / name / "checkpoint.safetensors") for name in ("run", "whole"))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert learnt(tmp_path / "run") == learnt(tmp_path / "whole")


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    process = start(*TRAINING, "--processes", "2", "--out", "run", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "run" / "checkpoint.safetensors").exists() or process.poll() is not None, PATIENCE)
    ranks = children(process.pid)
    os.kill(ranks[1], signal.SIGSTOP)  # so that no step is finished
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.5)
    begun = time.monotonic()
    assert "lctprune resume run\n" in ended(process)
    assert time.monotonic() - begun < 15
    assert not any(exists(rank) for rank in ranks)


def test_processes_that_are_stopped_while_they_start_end_soon(tmp_path: Path) -> None:
    process = start(*TRAINING, "--processes", "2", "--out", "run", cwd=tmp_path)
    wait_for(lambda: len(children(process.pid)) == 2, PATIENCE)
    ranks = children(process.pid)
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)
    begun = time.monotonic()
    assert "has given no sign of life" in ended(process)
    assert time.monotonic() - begun < 60
    assert process.returncode == 1
    assert not any(exists(rank) for rank in ranks)
