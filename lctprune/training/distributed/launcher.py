"""Start local processes with torch's elastic launcher, and report why one of them failed."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, PContext, start_processes
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from lctprune.errors import INTERRUPTED, WRONG_USAGE, ConfigError, LctpruneError, TrainingError
from lctprune.training.distributed.process_group import RUN_ID

LOOPBACK = "127.0.0.1"


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Run `python -m lctprune ARGUMENTS` in several local processes, until all have ended.

    Every socket through which they meet listens on the loopback interface only.

    Raises:
        ConfigError: a process refused its settings.
        TrainingError: a process failed; the message says which one and why.
        KeyboardInterrupt: the launch was interrupted; all processes have ended.
    """
    logging.disable()  # the error that follows says what the launcher would log
    try:
        with tempfile.TemporaryDirectory(prefix="lctprune-") as folder:
            store = _loopback_store()
            _wait(_started(processes, arguments, store.port, folder))
    finally:
        logging.disable(logging.NOTSET)


def _loopback_store() -> dist.TCPStore:  # type: ignore[name-defined]
    """Open the store of the processes; by itself, torch would have it listen on every interface."""
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    return dist.TCPStore(  # type: ignore[attr-defined]
        LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )


def _started(processes: int, arguments: Sequence[str], port: int, folder: str) -> PContext:
    interface = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "lo")
    shared = {
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store of this process, not one of rank 0
        "TORCHELASTIC_RUN_ID": f"{RUN_ID}{uuid.uuid4().hex}",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }
    ranks = range(processes)
    return start_processes(
        name="lctprune",
        entrypoint=sys.executable,
        args=dict.fromkeys(ranks, ("-P", "-m", "lctprune", *arguments)),  # -P: import nothing from this folder
        envs={rank: {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in ranks},
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )


def _wait(context: PContext) -> None:
    try:
        result = context.wait()
    except SignalException as error:
        context.close(error.sigval)
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise TrainingError(f"ended by {error.sigval.name}; all processes have ended") from error
    if result is not None and result.is_failed():
        raise _explained(result.failures)


def _explained(failures: Mapping[int, ProcessFailure]) -> BaseException:
    """Return the error that caused all others."""
    rank, failure = min(failures.items(), key=lambda item: (_precedence(item[1]), item[1].timestamp))
    record = failure.error_file_data
    code = record.get("exit_code", failure.exitcode)
    if code in (INTERRUPTED, -signal.SIGINT):
        return KeyboardInterrupt()
    if "exit_code" in record:
        kind: type[LctpruneError] = ConfigError if code == WRONG_USAGE else TrainingError
        return kind(str(record["message"]))
    how = f"was ended by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with code {failure.exitcode}"
    return TrainingError(
        f"rank {rank} {how}; all processes have ended, and --resume continues from the last checkpoint"
    )


def _precedence(failure: ProcessFailure) -> int:
    """Order failures: those a process reports as its own, then silent deaths, then consequences of other failures."""
    record = failure.error_file_data
    if "exit_code" in record:
        return 0 if record["is_cause"] else 2
    return 3 if failure.exitcode == -signal.SIGTERM else 1
