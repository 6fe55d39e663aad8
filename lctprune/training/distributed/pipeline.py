"""Decoupled training: consecutive groups in a process of their own each, on torch.distributed.

Process i runs its groups forward, sends h_i on, and goes on with its own backward pass while the next process works; of
later groups it needs no more than the next exit's losses, one number per sample, and where critics distil its outputs,
and those only before its own next critic update. So no process waits for a gradient, and the arithmetic is that of one
process, bit for bit.

With R replicas, ranks form a mesh of R pipelines of equal length; each group's gradients are averaged over its R
copies. Batch norm is not synchronised: each replica normalises by its own part of the batch, and the running statistics
that are kept are those of the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from lctprune.config.training import TrainConfig
from lctprune.errors import ConfigError
from lctprune.losses import Distance, Loss, softened_distance
from lctprune.network import LocalCriticNetwork
from lctprune.partition.balancing import balance
from lctprune.training.distributed.messages import Channel
from lctprune.training.distributed.process_group import ProcessGroup, lost_processes
from lctprune.training.links import Links
from lctprune.training.stage import Stage
from lctprune.training.worker import Average, Worker, tensors_of
from lctprune.utils.modules import moved


def require_processes(processes: int, *, groups: int, replicas: int = 1) -> None:
    """Refuse a number of processes that does not fit.

    Raises:
        ConfigError: it is not a multiple of `replicas`, or there are more processes than groups in a replica.
    """
    if processes < 1 or replicas < 1:
        raise ConfigError(f"{processes} processes in {replicas} replicas; there must be at least 1 of each")
    if processes % replicas:
        raise ConfigError(
            f"{processes} processes cannot form {replicas} equal replicas; give a multiple of {replicas} processes"
        )
    if processes // replicas > groups:
        raise ConfigError(
            f"{processes // replicas} processes for {groups} groups: a group needs no more than one process; "
            "give more --groups, fewer --processes, or --replicas"
        )


def require_one_process(config: TrainConfig, processes: int) -> None:
    """Refuse to share out a training that needs the whole network at once.

    Raises:
        ConfigError: it has joint gradients, or diagnostics.
    """
    if processes > 1 and (config.method == "joint" or config.diagnostics):
        option = "--diagnostics" if config.diagnostics else f"--method {config.method}"
        raise ConfigError(f"{option} needs the whole network in one process; leave out --processes")


def share_groups(groups: int, processes: int, seconds: Sequence[float] | None = None) -> list[range]:
    """Consecutive groups for each process, balanced by the `seconds` that each group takes, or else by their number."""
    cumulative = itertools.accumulate(seconds or [1.0] * groups)
    cuts = [place + 1 for place in balance([round(1e9 * upto) for upto in cumulative], processes)]
    return [range(first, end) for first, end in itertools.pairwise([0, *cuts, groups])]


class Pipeline:
    """The processes of one training and which groups each holds; or this process alone, holding all.

    Args:
        group: the processes; None: there is one.
        groups: of the network.
        replicas: pipelines side by side, each on its part of every batch.
        device: where tensors are.

    Raises:
        ConfigError: see `require_processes`.
    """

    def __init__(self, group: ProcessGroup | None, *, groups: int, replicas: int = 1, device: str = "cpu") -> None:
        self._group = group or ProcessGroup(0, 1)
        require_processes(self._group.size, groups=groups, replicas=replicas)
        self._length = self._group.size // replicas
        self.replica, self.place = divmod(self._group.rank, self._length)
        self._groups, self._device, self.replicas = groups, device, replicas
        self._average: Average | None = None
        self._links = Links()
        self._reports: list[Channel] = []  # to rank 0; of rank 0, to all others
        if self._group.size > 1:
            self._open()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which reads the data and writes the run."""
        return self._group.rank == 0

    def share(self, value: Any = None) -> Any:
        """Rank 0's value, in every process: plain values."""
        return value if self._group.size == 1 else self._group.share(value)

    def assign(self, seconds: Sequence[float] | None) -> list[range]:
        """Which groups each process of a replica holds. See `share_groups`."""
        return share_groups(self._groups, self._length, seconds)

    @property
    def must_balance(self) -> bool:
        """Whether `assign` needs to know how long each group takes."""
        return 1 < self._length < self._groups

    def stage(
        self,
        network: LocalCriticNetwork,
        shares: Sequence[range],
        config: TrainConfig,
        loss: Loss,
        *,
        distance: Distance = softened_distance,
    ) -> Stage:
        """This process's part of the network; `distance` is for critics that distil."""
        workers = []
        for index in shares[self.place]:
            critic = network.critics[index] if index < len(network.critics) else None
            for module in (network.groups[index], critic):
                if module is not None:
                    if any(tensor.is_meta for tensor in module.parameters()):
                        module.to_empty(device=config.device)  # its weights come with `distribute`
                    moved(module, config.device)
            workers.append(
                Worker(
                    index,
                    network.groups[index],
                    critic,
                    config,
                    distance=distance,
                    replica=self.replica,
                    average=self._average,
                )
            )
        return Stage(workers, config, loss, self._links)

    def distribute(self, stage: Stage, tensors: Mapping[str, Tensor] | None, shares: Sequence[range]) -> None:
        """Give every process its part of a checkpoint, which rank 0 has: all begin with the same weights."""
        if not self.is_first:
            own = self._receive_tensors(self._reports[0])
        else:
            assert tensors is not None
            for rank, channel in enumerate(self._reports, start=1):
                for index in shares[rank % self._length]:
                    _send_tensors(channel, tensors_of(index, tensors))
                channel.send()
            own = dict(tensors)
        for worker in stage.workers:
            worker.load(own)

    def collect(self, stage: Stage) -> dict[str, Tensor] | None:
        """A whole checkpoint, in rank 0; None elsewhere."""
        if not self.is_first:
            if self.replica == 0:
                _send_tensors(self._reports[0], stage.tensors())
                self._reports[0].send()
            return None
        tensors = stage.tensors()
        for channel in self._reports[: self._length - 1]:
            tensors |= self._receive_tensors(channel)
        return tensors

    def gather(self, note: dict[str, Any]) -> list[dict[str, Any]] | None:
        """The notes of all processes, in rank 0; None elsewhere."""
        if not self.is_first:
            self._reports[0].send(note)
            return None
        return [note, *(channel.receive().note for channel in self._reports)]

    def close(self) -> None:
        """End all channels, once training is over."""
        for channel in [*self._links.all, *self._reports]:
            channel.close()

    def _open(self) -> None:
        rank, length = self._group.rank, self._length

        def ahead(peer: int) -> Channel:
            return Channel(peer, ahead=True)

        previous = ahead(rank - 1) if self.place > 0 else None
        source = previous if self.place > 0 or rank == 0 else ahead(0)
        first_ranks = tuple(ahead(replica * length) for replica in range(1, self.replicas)) if rank == 0 else ()
        following = ahead(rank + 1) if self.place < length - 1 else None
        self._links = Links(source=source, previous=previous, next=following, first_ranks=first_ranks)
        others = range(1, self._group.size) if rank == 0 else (0,)
        self._reports = [Channel(other, tag=1) for other in others]
        if self.replicas > 1:
            with lost_processes():
                mesh = init_device_mesh(self._device, (self.replicas, length), mesh_dim_names=("replica", "group"))
            self._average = _averaging(mesh.get_group("replica"), self.replicas)

    def _receive_tensors(self, channel: Channel) -> dict[str, Tensor]:
        tensors = {}
        while (message := channel.receive()).tensors:
            tensors[message.note["name"]] = message.tensors[0]
        return tensors


def _send_tensors(channel: Channel, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        channel.send({"name": name}, [tensor])


def _averaging(group: dist.ProcessGroup, replicas: int) -> Average:
    def average(parameters: Iterable[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        with lost_processes():
            dist.all_reduce(flat, group=group)
        flat /= replicas
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    return average
