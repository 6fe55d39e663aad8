"""Start local processes with torch's elastic launcher, and report why one of them failed."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, PContext, RunProcsResult, start_processes
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from lctprune.errors import (
    INTERRUPTED,
    STOPPED,
    WRONG_USAGE,
    ConfigError,
    LctpruneError,
    RunError,
    TrainingError,
    TrainingInterrupted,
)
from lctprune.training.distributed.process_group import RUN_ID, STARTUP_SECONDS, sign_key
from lctprune.utils.locking import locked_folder

LOOPBACK = "127.0.0.1"
POLL_SECONDS = 1
EARLIER_SECONDS = 4.0  # so long before the other processes the launcher finds one lost that does not start
FOLDER_PREFIX = "lctprune-ranks-"


def launch(processes: int, arguments: Sequence[str], *, timeout_s: float = STARTUP_SECONDS) -> None:
    """Run `python -m lctprune ARGUMENTS` in several local processes, until all have ended.

    Every socket through which they meet listens on the loopback interface only.

    Args:
        processes: number of processes.
        arguments: arguments of each.
        timeout_s: seconds without a sign of life after which a process is lost; while starting at least
            `STARTUP_SECONDS`.

    Raises:
        ConfigError: a process refused its settings.
        TrainingError: a process failed; the message says which one and why.
        KeyboardInterrupt: the launch was interrupted; all processes have ended. (TrainingInterrupted: after a
            checkpoint.)
    """
    logging.disable()  # the error that follows says what the launcher would log
    try:
        with _own_folder() as folder:
            store = _loopback_store()
            context = _started(processes, arguments, store.port, folder)
            _wait(context, store, max(timeout_s, STARTUP_SECONDS))
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _own_folder() -> Iterator[str]:
    """Make a temporary folder, and remove those of launchers that were killed: their locks ended with them."""
    for left in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError, RunError), locked_folder(left):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder, ExitStack() as held:
        with suppress(OSError, RunError):  # a system without locks
            held.enter_context(locked_folder(Path(folder)))
        yield folder


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
        # or each process that loses another prints a C++ stack as a warning, beside its own one line
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }
    ranks = range(processes)
    return start_processes(
        name="lctprune",
        entrypoint=sys.executable,
        args=dict.fromkeys(ranks, ("-P", "-m", "lctprune", *arguments)),  # -P: import nothing from this folder
        envs={rank: {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in ranks},
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )


def _wait(context: PContext, store: dist.TCPStore, startup_s: float) -> None:  # type: ignore[name-defined]
    try:
        _wait_for_start(context, store, startup_s)
        result = context.wait()
    except SignalException as error:
        result = _stopped(context, error.sigval)
    if result is not None and result.is_failed():
        raise _explained(result.failures)


def _wait_for_start(context: PContext, store: dist.TCPStore, startup_s: float) -> None:  # type: ignore[name-defined]
    """Wait until every process has given a sign of life, or all or one have ended.

    A process that was stopped does not hear a request to end, for which torch waits 30 s.
    """
    start, first = time.monotonic(), math.inf
    while context.wait(timeout=POLL_SECONDS, period=POLL_SECONDS) is None:
        silent = [rank for rank in range(context.nprocs) if not store.check([sign_key(rank)])]
        now = time.monotonic()
        if not silent:
            return
        first = now if len(silent) < context.nprocs and first == math.inf else first
        if now > min(start + 2 * startup_s, first + startup_s - EARLIER_SECONDS):
            context.close(signal.SIGKILL)
            raise TrainingError(f"rank {silent[0]} has given no sign of life for {now - start:.0f} s")


def _stopped(context: PContext, number: signal.Signals) -> RunProcsResult | None:
    """Pass a signal on to rank 0, which ends the training after a checkpoint; a second one ends all at once."""
    try:
        with suppress(ProcessLookupError):
            os.kill(context.pids()[0], number)
        return context.wait()
    except SignalException as error:
        context.close(signal.SIGKILL)
        raise KeyboardInterrupt from error


def _explained(failures: Mapping[int, ProcessFailure]) -> BaseException:
    """Return the error that caused all others."""
    rank, failure = min(failures.items(), key=lambda item: (_precedence(item[1]), item[1].timestamp))
    record = failure.error_file_data
    code = record.get("exit_code", failure.exitcode)
    if code in (INTERRUPTED, -signal.SIGINT):
        message = str(record.get("message", "")).removeprefix(f"rank {rank}: ")
        return TrainingInterrupted(message) if message.startswith(STOPPED) else KeyboardInterrupt()
    if "exit_code" in record:
        kind: type[LctpruneError] = ConfigError if code == WRONG_USAGE else TrainingError
        return kind(str(record["message"]))
    how = f"was ended by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with code {failure.exitcode}"
    return TrainingError(
        f"rank {rank} {how}; all processes have ended, and `resume` continues from the last checkpoint"
    )


def _precedence(failure: ProcessFailure) -> int:
    """Order failures: those a process reports as its own, then silent deaths, then consequences of other failures."""
    record = failure.error_file_data
    if "exit_code" in record:
        return 0 if record["is_cause"] else 2
    return 3 if failure.exitcode == -signal.SIGTERM else 1
