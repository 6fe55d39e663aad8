"""Several processes train what one does, bit for bit; and whatever befalls one of them, all end and say why."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from started import children, exists, learnt, start, wait_for

import lctprune as lct
from lctprune.measure.step_costs import group_seconds
from lctprune.training.distributed.pipeline import assign_groups, require_processes

RANKS = Path(__file__).with_name("ranks.py")
SLOW_TRAINING = [  # two epochs a second in one process
    *"train lstm --data digits-rows --groups 4 --model-args layers=4,dropout=0.2 --threads 1 --timeout 4".split()
]
PATIENCE = 100  # seconds


def run_ranks(folder: Path, processes: int, *arguments: str) -> None:
    command = [sys.executable, str(RANKS), str(folder), *arguments]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        command = [*launcher, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *command[1:]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train every case in one process with one thread."""
    folder = tmp_path_factory.mktemp("alone")
    run_ranks(folder, 1)
    return folder


def checkpoint(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "checkpoint.safetensors")


def assert_same_runs(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert len(names) == 14
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        expected, tensors = checkpoint(one / name), checkpoint(other / name)
        assert expected.keys() == tensors.keys()
        different = [key for key, tensor in expected.items() if not torch.equal(tensor, tensors[key])]
        assert not different, f"{name}: {different}"
        assert learnt(one / name) == learnt(other / name)


@pytest.mark.parametrize("processes", [4, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_train_what_one_does_to_the_bit(processes: int, alone: Path, tmp_path: Path) -> None:
    """Weights, statistics of batch norm, states of optimisers, metrics; dropout too. Two groups may share a process."""
    run_ranks(tmp_path, processes)
    assert_same_runs(alone, tmp_path)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "stop-after-one-epoch").touch()
    run_ranks(tmp_path, 1)
    (tmp_path / "stop-after-one-epoch").unlink()
    assert lct.Run(tmp_path / "paper").epochs_done == 1
    run_ranks(tmp_path, 2)
    assert_same_runs(alone, tmp_path)


@pytest.mark.slow
def test_two_replicas_are_one_pipeline_with_the_whole_batch(alone: Path, tmp_path: Path) -> None:
    """Where nothing depends on the other samples of a batch: two groups of processes, each half of every batch."""
    run_ranks(tmp_path, 4, "2")
    for name in ("turned", "regression"):
        expected, tensors = checkpoint(alone / name), checkpoint(tmp_path / name)
        assert max(float((tensor - tensors[key]).abs().max()) for key, tensor in expected.items()) < 1e-5
        for row, other in zip(learnt(alone / name), learnt(tmp_path / name), strict=True):
            assert [float(value) for value in other.values()] == pytest.approx(
                [float(value) for value in row.values()], abs=1e-4
            )
    normalised = checkpoint(tmp_path / "greedy")
    assert not torch.equal(
        normalised["network.groups.0.1.running_mean"], checkpoint(alone / "greedy")["network.groups.0.1.running_mean"]
    )


@pytest.fixture
def training(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a long training on two processes, and wait for its first epoch."""
    process = start(*SLOW_TRAINING, "--epochs", "500", "--processes", "2", "--out", "run", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "run" / "checkpoint.safetensors").exists() or process.poll() is not None, PATIENCE)
    yield process
    with_children = [*children(process.pid), process.pid]
    for each in with_children:
        if exists(each):
            os.kill(each, signal.SIGKILL)


def test_all_end_with_one_that_stops(training: subprocess.Popen[str], tmp_path: Path) -> None:
    ranks = children(training.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGSTOP)
    out, err = training.communicate(timeout=60)
    assert training.returncode == 1
    assert re.search("rank 1 has given no sign of life for [45] s", err)
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert not out
    wait_for(lambda: not any(exists(each) for each in ranks), PATIENCE)
    assert lct.Run(tmp_path / "run").epochs_done >= 1
    assert len(lct.load_network(tmp_path / "run").groups) == 4


def listening_addresses(process: int) -> set[str]:
    """Return the local addresses, in hexadecimal, of the TCP sockets on which a process listens."""
    targets = {str(each.readlink()) for each in Path(f"/proc/{process}/fd").iterdir() if each.is_symlink()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in targets}


def test_processes_listen_on_the_loopback_interface_only_and_an_interrupt_ends_all(
    training: subprocess.Popen[str], tmp_path: Path
) -> None:
    ranks = children(training.pid)
    found = [listening_addresses(process) for process in (training.pid, *ranks)]
    assert all(found)
    assert set.union(*found) == {"0100007F"}  # 127.0.0.1
    os.killpg(training.pid, signal.SIGINT)  # as a terminal does
    _, err = training.communicate(timeout=60)
    assert training.returncode == 130
    assert err.count("error:") == 1
    assert "lctprune resume run\n" in err
    assert "Traceback" not in err
    wait_for(lambda: not any(exists(each) for each in ranks), PATIENCE)
    assert lct.Run(tmp_path / "run").epochs_done >= 1


def test_a_killed_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    """One process killed at some moment, all end and say why; resumed in one process, as if nothing had been."""
    settings = [*SLOW_TRAINING, "--epochs", "5"]
    process = start(*settings, "--processes", "2", "--out", "run", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "run" / "checkpoint.safetensors").exists(), PATIENCE)
    time.sleep(0.7)
    ranks = children(process.pid)
    os.kill(ranks[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: rank 0 was ended by SIGKILL" in err
    assert err.count("error:") == 1
    assert not any(exists(each) for each in ranks)
    assert 1 <= lct.Run(tmp_path / "run").epochs_done < 5
    resumed, whole = (
        start(*settings, *arguments, cwd=tmp_path) for arguments in (["--out", "run", "--resume"], ["--out", "whole"])
    )
    for one in (resumed, whole):
        _, err = one.communicate(timeout=PATIENCE)
        assert one.returncode == 0, err
    expected, tensors = (checkpoint(tmp_path / name) for name in ("whole", "run"))
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in expected.items())
    assert learnt(tmp_path / "whole") == learnt(tmp_path / "run")


@pytest.mark.slow
def test_a_batch_is_as_many_samples_for_each_replica(tmp_path: Path) -> None:
    process = start(
        *SLOW_TRAINING, *"--epochs 1 --processes 2 --replicas 2 --batch-size 32 --out run --json".split(), cwd=tmp_path
    )
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    run = lct.Run(tmp_path / "run")
    assert run.config.training.batch_size == 64
    assert len(json.loads(out)["candidates"]) == 4
    assert run.epochs_done == 1


def test_a_loss_that_is_not_finite_ends_all(tmp_path: Path) -> None:
    process = start(
        *SLOW_TRAINING, *"--optimizer sgd --lr 1e30 --epochs 9 --processes 2 --out run --json".split(), cwd=tmp_path
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"rank \d: the loss of exit \d is (nan|inf) at epoch 1, step \d", err)
    assert err.count("error:") == 1
    assert '"exit_code": 1' in out
    assert "Traceback" not in err


def two_ranks(tmp_path: Path, *arguments: list[str], port: int) -> list[subprocess.CompletedProcess[str]]:
    """Two processes as a cluster's launcher would start them, with arguments of their own."""
    processes = []
    for rank, own in enumerate(arguments):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        variables = {**os.environ, **{name: str(value) for name, value in names.items()}}
        command = [sys.executable, "-m", "lctprune", *SLOW_TRAINING, *own]
        processes.append(
            subprocess.Popen(
                command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    results = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        results.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return results


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def test_processes_with_different_settings_are_refused(tmp_path: Path) -> None:
    first, second = two_ranks(
        tmp_path, ["--epochs", "1", "--out", "run"], ["--epochs", "2", "--out", "run"], port=free_port()
    )
    assert first.returncode == second.returncode == 2
    assert "rank 1 was started with training epochs 2, rank 0 with 1" in first.stderr
    assert not (tmp_path / "run").exists()


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        listener.listen()
        port = listener.getsockname()[1]
        variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", "lctprune", *SLOW_TRAINING, "--out", "run"]
        result = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, timeout=PATIENCE
        )
    assert result.returncode == 2
    assert re.search(
        rf"the processes cannot meet at localhost:{port} \(.*in use.*\); give the launcher a free port", result.stderr
    )
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--processes 5", "5 processes for 4 groups"),
        ("--processes 3 --replicas 2", "3 processes cannot form 2 equal replicas"),
        ("--replicas 2", "1 processes cannot form 2 equal replicas"),
        ("--processes 8 --groups 3 --replicas 2", "4 processes for 3 groups"),
    ],
)
def test_numbers_of_processes_that_do_not_fit_are_refused(
    arguments: str, reason: str, cli: Callable[..., object], tmp_path: Path
) -> None:
    result = cli("train", "lstm", "--data", "digits-rows", "--out", str(tmp_path / "run"), *arguments.split())
    assert result.code == 2
    assert reason in result.err
    assert not (tmp_path / "run").exists()


def test_groups_are_shared_out_by_their_time() -> None:
    assert assign_groups(4, 2, [1.0, 1.0, 1.0, 3.0]) == [range(3), range(3, 4)]
    assert assign_groups(4, 2, [3.0, 1.0, 1.0, 1.0]) == [range(1), range(1, 4)]
    assert assign_groups(4, 4) == [range(index, index + 1) for index in range(4)]
    assert assign_groups(3, 1) == [range(3)]


@pytest.mark.parametrize(("processes", "replicas"), [(0, 1), (1, 0), (3, 2), (5, 1), (10, 2)])
def test_processes_fit_groups_and_replicas(processes: int, replicas: int) -> None:
    with pytest.raises(lct.ConfigError):
        require_processes(processes, groups=4, replicas=replicas)
    require_processes(8, groups=4, replicas=2)


def test_timing_groups_leaves_the_network_as_it_was(
    make_network: Callable[..., lct.LocalCriticNetwork], data: lct.Data
) -> None:
    network = make_network().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    draws = torch.random.get_rng_state()
    config = lct.TrainConfig(weight_decay=0.1).resolved()
    seconds = group_seconds(network, *next(iter(data.train.batches(8))), config, loss=lct.cross_entropy)
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(draws, torch.random.get_rng_state())
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
