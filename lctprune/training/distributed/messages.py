"""Messages between two processes of a pipeline, on torch.distributed: a small note and some tensors each.

Tensors travel in the dtype and the memory layout that they have: gloo sends contiguous tensors only, so each goes as
the flat view of its memory, and its strides go ahead of it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lctprune.training.distributed.process_group import lost_processes
from lctprune.training.links import Message
from lctprune.utils.modules import packed


class Channel:
    """Messages to and from one other process, in order; through the host's memory, by gloo.

    Sending returns at once; at most one message is under way. With `ahead`, the next message is received while this
    process computes.

    Args:
        peer: rank of the other process.
        ahead: whether to receive ahead; such a channel must be closed at both ends.
        tag: tells apart several channels between the same two processes.

    Attributes:
        seconds_waited: for messages to come or to leave.
    """

    def __init__(self, peer: int, *, ahead: bool = False, tag: int = 0) -> None:
        self.peer = peer
        self.seconds_waited = 0.0
        self._tag = tag
        self._sending: list[tuple[dist.Work | None, Tensor]] = []
        self._ahead: Future[Message] | None = self._receive_ahead() if ahead else None

    def send(self, note: Mapping[str, Any] | None = None, tensors: Sequence[Tensor] = ()) -> None:
        """Send a message, once the one before has left.

        Raises:
            ProcessLostError: the other process is gone.
        """
        self.flush()
        sent = [packed(tensor.detach()).cpu() for tensor in tensors]
        header = {
            "note": note or {},
            "tensors": [[str(each.dtype).removeprefix("torch."), list(each.shape), each.stride()] for each in sent],
        }
        content = torch.frombuffer(bytearray(json.dumps(header).encode()), dtype=torch.uint8)
        for tensor in (torch.tensor([len(content)]), content, *(_flat(each) for each in sent if each.numel())):
            with lost_processes(f"rank {self.peer}"):
                self._sending.append((dist.isend(tensor, self.peer, tag=self._tag), tensor))

    def receive(self) -> Message:
        """The next message.

        Raises:
            ProcessLostError: the other process is gone.
        """
        start = time.perf_counter()
        if self._ahead is None:
            message = self._receive()
        else:
            message = self._ahead.result()
            self._ahead = self._receive_ahead()
        self.seconds_waited += time.perf_counter() - start
        return message

    def flush(self) -> None:
        """Wait until what was sent has left."""
        start = time.perf_counter()
        while self._sending:
            work, _ = self._sending.pop(0)
            with lost_processes(f"rank {self.peer}"):
                if work is not None:
                    work.wait()
        self.seconds_waited += time.perf_counter() - start

    def close(self) -> None:
        """Wait until all has left; and where messages are received ahead, for the other end to close too."""
        if self._ahead is not None:
            self.send()
        self.flush()
        if self._ahead is not None:
            self._ahead.result()

    def _receive(self) -> Message:
        length = torch.empty(1, dtype=torch.long)
        self._fill(length)
        content = torch.empty(int(length), dtype=torch.uint8)
        self._fill(content)
        header = json.loads(content.numpy().tobytes())
        tensors = []
        for dtype, shape, stride in header["tensors"]:
            tensors.append(torch.empty_strided(shape, stride, dtype=getattr(torch, dtype)))
            if tensors[-1].numel():
                self._fill(_flat(tensors[-1]))
        return Message(header["note"], tensors)

    def _fill(self, buffer: Tensor) -> None:
        with lost_processes(f"rank {self.peer}"):
            work = dist.irecv(buffer, self.peer, tag=self._tag)
            if work is not None:
                work.wait()

    def _receive_ahead(self) -> Future[Message]:
        future: Future[Message] = Future()

        def receive() -> None:
            try:
                future.set_result(self._receive())
            except BaseException as error:  # raised where the message is asked for
                future.set_exception(error)

        # a thread of its own, which does not hold up the end of the process as an executor's would
        threading.Thread(target=receive, daemon=True).start()
        return future


def _flat(tensor: Tensor) -> Tensor:
    """The bytes of a dense tensor, in the order of its memory."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
