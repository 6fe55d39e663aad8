"""The processes of one training, on torch.distributed: how they meet, agree, and notice that one is lost."""

from __future__ import annotations

import datetime
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lctprune.errors import ConfigError, ProcessLostError, first_line

BEAT_SECONDS = 1.0
YIELD_SECONDS = 5.0  # a process that has lost another one waits so long, for that one to report its own failure
RUN_ID = "lctprune-"  # prefix of the run ids of `lctprune train --processes`
LONGEST_TIMEOUT = 86_400
STARTUP_SECONDS = 25.0  # for the first sign of life of processes that an elastic launcher starts together
SEPARATE_STARTUP_SECONDS = 300.0  # for that of processes that are started one by one
NEVER = datetime.timedelta(days=1)  # waiting is no failure: the watch tells a slow process from a lost one


@dataclass(frozen=True)
class ProcessGroup:
    """All processes of a training, seen from one of them.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int
    size: int

    def broadcast(self, value: Any = None) -> Any:
        """Return rank 0's value in every process.

        Args:
            value: plain values, as JSON has them; ignored in all processes but rank 0.
        """
        content = _encoded(value if self.rank == 0 else None)
        length = torch.tensor([len(content)])
        with lost_processes():
            dist.broadcast(length, src=0)
            if self.rank != 0:
                content = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(content, src=0)
        return _decoded(content)

    def require_equal(self, settings: Mapping[str, Any]) -> None:
        """Refuse processes that were started with different settings.

        Raises:
            ConfigError: the settings differ; raised in every process, naming the first difference.
        """
        first, *others = map(json.loads, self._gather(json.dumps(settings, default=str)))
        for rank, other in enumerate(others, start=1):
            for name in first:
                if first[name] != other.get(name):
                    raise ConfigError(
                        f"rank {rank} was started with {name} {other.get(name)!r}, rank 0 with {first[name]!r}; "
                        "start all processes with the same settings"
                    )

    def _gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        content = _encoded(value)
        lengths = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        with lost_processes():
            dist.all_gather(lengths, torch.tensor([len(content)]))
            padded = torch.zeros(max(int(length) for length in lengths), dtype=torch.uint8)
            padded[: len(content)] = content
            gathered = [torch.empty_like(padded) for _ in lengths]
            dist.all_gather(gathered, padded)
        return [_decoded(each[: int(length)]) for each, length in zip(gathered, lengths, strict=True)]


def _encoded(value: Any) -> Tensor:
    """Return a value as JSON in a tensor of bytes: what comes over a socket is never unpickled."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _decoded(content: Tensor) -> Any:
    return json.loads(content.numpy().tobytes())


def is_started() -> bool:
    """Tell whether a launcher such as torchrun started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def process_count(asked: int) -> int:
    """Return how many processes train, or will once they are launched.

    Raises:
        ConfigError: the launcher started a different number than `asked`.
    """
    size = int(os.environ["WORLD_SIZE"]) if is_started() else asked
    if asked not in (1, size):
        raise ConfigError(f"`processes` is {asked}, but the launcher has started {size}; leave it out")
    return size


def local_processes() -> int:
    """Return how many processes of the training run on this machine, as the launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_started() else 1


def is_spoken_for() -> bool:
    """Tell whether `lctprune train --processes` started this process, and will report what goes wrong in it."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(RUN_ID)


def record_failure(message: str, exit_code: int, *, is_cause: bool) -> None:
    """Tell the launcher why this process ends, in the file that torch's elastic launcher reads.

    Args:
        message: reason, in one line.
        exit_code: exit code of this process.
        is_cause: false if this process ends because another one did; that one is then given time to report first.
    """
    if not is_cause:
        time.sleep(YIELD_SECONDS)
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        record = {"message": message, "timestamp": int(time.time()), "exit_code": exit_code, "is_cause": is_cause}
        Path(path).write_text(json.dumps(record))


@contextmanager
def process_group(
    *, device: str = "cpu", timeout_s: float, on_lost: Callable[[ProcessLostError], None]
) -> Iterator[ProcessGroup | None]:
    """Join the processes that the launcher started; the block gets the group, or None where this process is alone.

    Args:
        device: device of the training, cpu (gloo) or cuda (NCCL, or gloo where processes share a device, which NCCL
            refuses).
        timeout_s: seconds without a sign of life after which a process is lost.
        on_lost: callback, called in a thread of its own when a process is lost; it must end this process, which may
            hang.

    Raises:
        ConfigError: the launcher's address cannot be used, or `timeout_s` is out of range.
    """
    if not 1 <= timeout_s <= LONGEST_TIMEOUT:
        raise ConfigError(f"timeout is {timeout_s} s; it must be between 1 and {LONGEST_TIMEOUT}")
    if not is_started():
        yield None
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    group = ProcessGroup(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(group, timeout_s, on_lost, ended), daemon=True)
    watch.start()  # before the others are met, as they may be lost by then
    try:
        _meet(device)
        yield group
        with lost_processes():
            dist.barrier()
    finally:
        ended.set()
    watch.join()
    dist.destroy_process_group()


def _share_devices() -> bool:
    """Tell whether this machine has fewer CUDA devices than processes."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > torch.cuda.device_count()


def _meet(device: str) -> None:
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" and not _share_devices() else "gloo", timeout=NEVER
        )
    except (ValueError, RuntimeError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = first_line(error)
        if isinstance(error, ValueError) or "in use" in reason or "resolve" in reason:
            raise ConfigError(
                f"the processes cannot meet at {address} ({reason}); give the launcher a free port of rank 0's host"
            ) from error
        raise ProcessLostError(f"another process is gone ({reason})") from error


@contextmanager
def lost_processes(which: str = "another process") -> Iterator[None]:
    """Turn torch.distributed's errors inside the block into a `ProcessLostError`."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLostError(f"{which} is gone ({first_line(error)})") from error


def _watch(
    group: ProcessGroup, timeout_s: float, on_lost: Callable[[ProcessLostError], None], ended: threading.Event
) -> None:
    """Give signs of life and look for those of all others, until `ended`.

    The watch has a connection of its own to the launcher's store. A stopped process keeps its sockets open: only its
    silence shows that it has stopped.
    """
    is_elastic = "TORCHELASTIC_RUN_ID" in os.environ
    startup_s = max(timeout_s, STARTUP_SECONDS if is_elastic else SEPARATE_STARTUP_SECONDS)
    launcher = os.getppid()
    siblings = f"{socket.gethostname()} {launcher}"  # how the signs of processes of this launcher on this host begin
    last: dict[int, tuple[str, float]] = {}  # sign of life by rank, and when it came
    beats = 0
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=datetime.timedelta(seconds=startup_s),
        )
        while not ended.wait(BEAT_SECONDS if beats else 0):
            beats += 1
            store.set(sign_key(group.rank), f"{siblings} {os.getpid()} {beats}")
            now = time.monotonic()
            if is_elastic and os.getppid() != launcher:
                raise ProcessLostError("the launcher has ended")
            for rank in range(group.size):
                sign = store.get(sign_key(rank)).decode() if store.check([sign_key(rank)]) else ""
                if rank not in last or last[rank][0] != sign:
                    last[rank] = (sign, now)
                elif (silent_s := now - last[rank][1]) > (timeout_s if sign else startup_s):
                    raise ProcessLostError(
                        f"rank {rank} has given no sign of life for {silent_s:.0f} s", _sibling(sign, siblings)
                    )
    except ProcessLostError as error:
        on_lost(error)
    except RuntimeError as error:
        if not ended.is_set():
            on_lost(ProcessLostError(f"the launcher's store is gone ({first_line(error)})"))


def sign_key(rank: int) -> str:
    """Return the name of a process's signs of life in the store."""
    return f"lctprune/alive/{rank}"


def _sibling(sign: str, siblings: str) -> int | None:
    """Return the id of the process that gave a sign, if this launcher on this host started it too."""
    *others, pid, _ = sign.split() or ("", "", "")
    return int(pid) if " ".join(others) == siblings else None
