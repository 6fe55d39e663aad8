"""Decoupled training: consecutive groups in one process each, on torch.distributed.

Process i runs its groups forward, sends h_i on, and goes on with its own backward pass while the next process works.
From later groups it needs only the next exit's losses, one number per sample, and the next exit's outputs where critics
distil; and it needs them only before its own next critic update. So no process waits for a gradient, and the arithmetic
is that of one process, bit for bit.

With R replicas, ranks form a mesh of R pipelines of equal length; a gradient all-reduce averages each group's gradients
over its R copies. Batch norm is not synchronised: each replica normalises by its own part of the batch, and the
checkpoint keeps the running statistics of the first replica.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from lctprune.config.training import ResolvedTrainConfig, TrainConfig
from lctprune.errors import ConfigError
from lctprune.losses import Distance, Loss, softened_distance
from lctprune.network import LocalCriticNetwork
from lctprune.partition.balancing import balance
from lctprune.training.blocks import block_ends, require_blocks
from lctprune.training.distributed.messages import Channel
from lctprune.training.distributed.process_group import ProcessGroup, lost_processes
from lctprune.training.group_trainer import AllReduce, GroupTrainer, tensors_of
from lctprune.training.links import Links
from lctprune.training.loss_scaling import LossScale
from lctprune.training.stage import Stage
from lctprune.utils.modules import moved, training_layout
from lctprune.utils.wording import counted


def require_processes(processes: int, *, groups: int, replicas: int = 1, blocks: int | None = None) -> None:
    """Refuse a number of processes that does not fit the groups, blocks and replicas.

    Raises:
        ConfigError: the number is not a multiple of `replicas`; or a replica has more processes than groups or blocks;
            or there are more blocks than groups.
    """
    if processes < 1 or replicas < 1:
        raise ConfigError(f"{processes} processes in {replicas} replicas; there must be at least 1 of each")
    if processes % replicas:
        raise ConfigError(
            f"{processes} processes cannot form {replicas} equal replicas; give a multiple of {replicas} processes"
        )
    require_blocks(blocks, groups=groups)
    name, count = ("group", groups) if blocks is None else ("block", blocks)
    if processes // replicas > count:
        raise ConfigError(
            f"{processes // replicas} processes for {counted(count, name)}: a {name} needs no more than one process; "
            f"give more `{name}s`, fewer `processes`, or more `replicas`"
        )


def require_one_process(config: TrainConfig, processes: int) -> None:
    """Refuse several processes for a training that needs the whole network in one.

    Raises:
        ConfigError: the method is joint, or diagnostics are on.
    """
    if processes > 1 and (config.method == "joint" or config.diagnostics):
        option = "`diagnostics`" if config.diagnostics else f"`method={config.method}`"
        other = "; in several, train by `method=local-critic`" if option == "`method=joint`" else ""
        raise ConfigError(f"{option} needs the whole network in one process; leave out `processes`{other}")


def assign_groups(
    groups: int, processes: int, seconds: Sequence[float] | None = None, blocks: int | None = None
) -> list[range]:
    """Assign consecutive whole blocks to each process, balanced by the `seconds` per group, or else by their number."""
    cumulative = list(itertools.accumulate(seconds or [1.0] * groups))
    lasts = block_ends(groups, groups if blocks is None else blocks)
    ends = [lasts[cut] + 1 for cut in balance([round(1e9 * cumulative[last]) for last in lasts], processes)]
    return [range(first, end) for first, end in itertools.pairwise([0, *ends, groups])]


class Pipeline:
    """The processes of one training and the groups that each holds; or this process alone, holding all.

    Args:
        group: processes; None if this one is alone.
        groups: number of groups of the network.
        replicas: number of pipelines side by side, each on its part of every batch.
        device: device of the tensors.
        blocks: number of blocks of groups, each of which one process holds; by default each group is one.

    Attributes:
        replica: number of the pipeline that this process belongs to, from 0.
        position: number of this process in its pipeline, from 0.

    Raises:
        ConfigError: see `require_processes`.
    """

    def __init__(
        self,
        group: ProcessGroup | None,
        *,
        groups: int,
        replicas: int = 1,
        device: str = "cpu",
        blocks: int | None = None,
    ) -> None:
        self._group = group or ProcessGroup(0, 1)
        require_processes(self._group.size, groups=groups, replicas=replicas, blocks=blocks)
        self._length = self._group.size // replicas
        self.replica, self.position = divmod(self._group.rank, self._length)
        self._groups, self._blocks, self._device, self.replicas = groups, blocks, device, replicas
        self._all_reduce_gradients: AllReduce | None = None
        self._links = Links()
        self._reports: list[Channel] = []  # to rank 0; in rank 0, to all others
        if self._group.size > 1:
            self._open()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which reads the data and writes the run."""
        return self._group.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether this process holds the whole network."""
        return self._group.size == 1

    def broadcast(self, value: Any = None) -> Any:
        """Return rank 0's value in every process; made of plain values, as JSON has them."""
        return value if self._group.size == 1 else self._group.broadcast(value)

    def assign(self, seconds: Sequence[float] | None) -> list[range]:
        """Return which groups each process of a replica holds; see `assign_groups`."""
        return assign_groups(self._groups, self._length, seconds, self._blocks)

    @property
    def must_balance(self) -> bool:
        """Whether `assign` needs to know how long each group takes."""
        return 1 < self._length < (self._blocks or self._groups)

    def stage(
        self,
        network: LocalCriticNetwork,
        assignment: Sequence[range],
        config: ResolvedTrainConfig,
        loss: Loss,
        *,
        distance: Distance = softened_distance,
    ) -> Stage:
        """Make this process's part of the training.

        Args:
            network: whole network; only this process's groups and critics are moved to the device.
            assignment: groups of each process, from `assign`.
            config: settings of the training.
            loss: loss per sample.
            distance: distance of a critic's output from the next exit's, per sample, for critics that distil.
        """
        own = [part for part in network.parts() if part[0] in assignment[self.position]]
        layout = training_layout(network, config.device)
        for _, group, critic in own:
            for module in (group, critic):
                if module is not None:
                    if any(tensor.is_meta for tensor in module.parameters()):
                        module.to_empty(device=config.device)  # its weights come with `scatter`
                    moved(module, config.device, layout)
        scale = LossScale(config.device) if config.precision == "fp16" else None
        reduce = self._all_reduce_gradients
        trainers = [
            GroupTrainer(part, config, replica=self.replica, all_reduce_gradients=reduce, loss_scale=scale)
            for part in own
        ]
        is_blocked = self._blocks is not None and self._blocks < self._groups
        ends = block_ends(self._groups, self._blocks or self._groups) if is_blocked else []
        return Stage(trainers, config, loss, distance=distance, links=self._links, layout=layout, ends=ends)

    def scatter(self, stage: Stage, tensors: Mapping[str, Tensor] | None, assignment: Sequence[range]) -> None:
        """Give every process its part of rank 0's checkpoint, so that all begin with the same weights."""
        if not self.is_first:
            own = self._receive_tensors(self._reports[0])
        else:
            assert tensors is not None
            for rank, channel in enumerate(self._reports, start=1):
                for index in assignment[rank % self._length]:
                    _send_tensors(channel, tensors_of(index, tensors))
                channel.send()
            own = dict(tensors)
        for trainer in stage.trainers:
            trainer.load(own)

    def collect(self, stage: Stage) -> dict[str, Tensor] | None:
        """Return the whole checkpoint in rank 0, and None elsewhere."""
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
        """Return the notes of all processes in rank 0, and None elsewhere."""
        if not self.is_first:
            self._reports[0].send(note)
            return None
        return [note, *(channel.receive().note for channel in self._reports)]

    def tell(self, word: str) -> str:
        """Return rank 0's word in every process."""
        if not self.is_first:
            return str(self._reports[0].receive().note["word"])
        for channel in self._reports:
            channel.send({"word": word})
        return word

    def close(self) -> None:
        """Close all channels once training is over."""
        for channel in [*self._links.all, *self._reports]:
            channel.close()

    def _open(self) -> None:
        rank, length = self._group.rank, self._length

        def ahead(peer: int) -> Channel:
            return Channel(peer, ahead=True)

        previous = ahead(rank - 1) if self.position > 0 else None
        source = previous if self.position > 0 or rank == 0 else ahead(0)
        first_ranks = tuple(ahead(replica * length) for replica in range(1, self.replicas)) if rank == 0 else ()
        following = ahead(rank + 1) if self.position < length - 1 else None
        self._links = Links(source=source, previous=previous, next=following, first_ranks=first_ranks)
        others = range(1, self._group.size) if rank == 0 else (0,)
        self._reports = [Channel(other, tag=1) for other in others]
        if self.replicas > 1:
            with lost_processes():
                mesh = init_device_mesh(self._device, (self.replicas, length), mesh_dim_names=("replica", "group"))
            self._all_reduce_gradients = _gradient_all_reduce(mesh.get_group("replica"), self.replicas)

    def _receive_tensors(self, channel: Channel) -> dict[str, Tensor]:
        tensors = {}
        while (message := channel.receive()).tensors:
            tensors[message.note["name"]] = message.tensors[0]
        return tensors


def _send_tensors(channel: Channel, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        channel.send({"name": name}, [tensor])


def _gradient_all_reduce(group: dist.ProcessGroup, replicas: int) -> AllReduce:
    def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
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

    return all_reduce_gradients
