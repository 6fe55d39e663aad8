"""Start local processes through torch's elastic launcher, and tell why one of them failed."""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lctprune.errors import INTERRUPTED, WRONG_USAGE, ConfigError, LctpruneError, TrainingError
from lctprune.training.distributed.process_group import RUN_ID


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Run `python -m lctprune ARGUMENTS` in several local processes, until all have ended.

    Raises:
        ConfigError: a process refused its settings.
        TrainingError: a process failed; says which one and why.
        KeyboardInterrupt: the launch was interrupted; all processes have ended.
    """
    with tempfile.TemporaryDirectory(prefix="lctprune-") as folder:
        _launch(processes, arguments, folder)


def _launch(processes: int, arguments: Sequence[str], folder: str) -> None:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"{RUN_ID}{uuid.uuid4().hex}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )
    logging.disable()  # what the launcher reports is in the error that follows
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "lctprune", *arguments)  # -P: not the folder we are in
    except ChildFailedError as error:
        raise _explained(error.failures) from error
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise TrainingError(f"ended by {error.sigval.name}; all processes have ended") from error
    finally:
        logging.disable(logging.NOTSET)


def _explained(failures: Mapping[int, ProcessFailure]) -> BaseException:
    """The one error that the others followed from."""
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
    """What a process says of itself, then a death without a word, then what follows from other deaths."""
    record = failure.error_file_data
    if "exit_code" in record:
        return 0 if record["is_cause"] else 2
    return 3 if failure.exitcode == -signal.SIGTERM else 1
