"""What every node of a network's graph gives and costs, from running it node by node."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from lctprune.costs import counting_flops, evaluation_mode, saving_bytes
from lctprune.tracing import nodes_of
from lctprune.train_config import TrainConfig

BATCH = 2  # samples of the run that counts: with more than one, the batch is told from other sides of length 1
TIMED_BATCH = 64  # samples of the run that is timed: times per sample are those of a batch


class NodeCost(NamedTuple):
    """What one node gives and costs, for one sample."""

    shape: tuple[int, ...] | None  # of the tensor it gives, without the batch; None: no floating-point batch
    flops: int
    memory_bytes: int  # saved for its backward pass
    time_ns: int = 0  # forward and backward
    is_overwritten: bool = False  # by a later node, in place


def node_costs(root: nn.Module, graph: fx.Graph, example: Tensor, *, timed: bool = False) -> list[NodeCost]:
    """Costs of all nodes but the output, in order, in evaluation mode.

    Args:
        root: the network.
        graph: of it.
        example: an input, [batch, ...].
        timed: whether times are measured too, as those of training: see `training_batch`.

    Raises:
        UnknownOperationError: a node's operation is not known to the FLOP counter.
    """
    module = fx.GraphModule(root, graph)
    with evaluation_mode(module), torch.enable_grad():
        counter = _Counter(module)
        counter.run(example[:1].detach().repeat_interleave(BATCH, 0))  # of its own storage: bytes are counted by that
        costs = [
            counter.costs[node.name]._replace(is_overwritten=node.name in counter.overwritten)
            for node in nodes_of(graph)
        ]
        if timed:
            timer = _Timer(module)
            with as_in_training(example.dim() == 4):
                timer.run(training_batch(example))
            nanoseconds = [timer.nanoseconds[node.name] // TIMED_BATCH for node in nodes_of(graph)]
            costs = [cost._replace(time_ns=time_ns) for cost, time_ns in zip(costs, nanoseconds, strict=True)]
    return costs


def training_batch(example: Tensor) -> Tensor:
    """`TIMED_BATCH` copies of an example's first sample, images in the memory layout of training."""
    batch = example[:1].detach().repeat_interleave(TIMED_BATCH, 0)
    return batch.contiguous(memory_format=torch.channels_last) if batch.dim() == 4 else batch


def as_in_training(images: bool) -> AbstractContextManager[object]:
    """The precision that training takes where none is asked for."""
    config = TrainConfig().resolved(images=images)
    return torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bf16", cache_enabled=False)


def critic_time_ns(critic: nn.Module, shape: tuple[int, ...]) -> int:
    """Nanoseconds per sample that a critic adds to a step of training, behind a tensor of `shape` without the batch."""
    inputs = training_batch(torch.zeros(1, *shape)).requires_grad_()
    parameters = [parameter for parameter in critic.parameters() if parameter.requires_grad]
    times = []
    with as_in_training(len(shape) == 3), torch.enable_grad():
        for _ in range(_Timer.REPEATS):
            start = time.perf_counter_ns()
            output = critic(inputs).sum()
            torch.autograd.grad(output, [inputs], retain_graph=True)  # the group's way through the critic
            torch.autograd.grad(output, parameters)  # and the critic's own
            times.append(time.perf_counter_ns() - start)
    return min(times) // TIMED_BATCH


class _Counter(fx.Interpreter):
    """Notes what each node gives, its FLOPs, and what autograd saves for it."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False  # our own errors are one line
        self.costs: dict[str, NodeCost] = {}
        self.overwritten: set[str] = set()
        self.parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        self.saved: set[int] = set()  # storages that an earlier node saved: they are kept until the backward pass

    def run_node(self, n: fx.Node) -> Any:
        inputs = {node.name: self.env[node] for node in n.all_input_nodes if isinstance(self.env[node], Tensor)}
        versions = {name: tensor._version for name, tensor in inputs.items()}
        with counting_flops() as flops, saving_bytes(self.saved, ignored=self.parameters) as saved:
            value = super().run_node(n)
        self.overwritten |= {name for name, tensor in inputs.items() if tensor._version != versions[name]}
        is_batch = isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1 and len(value) == BATCH
        shape = tuple(value.shape[1:]) if is_batch else None
        self.costs[n.name] = NodeCost(shape, flops() // BATCH, saved() // BATCH)
        return value


class _Timer(fx.Interpreter):
    """Times each node's forward and backward pass, its inputs cut off from what was before."""

    REPEATS = 3

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.nanoseconds: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.nanoseconds[n.name] = 0
        if n.op in ("placeholder", "get_attr", "output"):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        parameters = (
            [item for item in module.parameters() if item.requires_grad] if isinstance(module, nn.Module) else []
        )
        times = []
        for _ in range(self.REPEATS):
            (own_args, own_kwargs), leaves = _cut_off((args, kwargs))
            start = time.perf_counter_ns()
            value = getattr(self, n.op)(n.target, own_args, own_kwargs)
            outputs = [item for item in pytree.tree_leaves(value) if isinstance(item, Tensor) and item.requires_grad]
            if outputs and (leaves or parameters):
                gradients = [torch.ones_like(item) for item in outputs]
                torch.autograd.grad(outputs, [*leaves, *parameters], gradients, allow_unused=True)
            times.append(time.perf_counter_ns() - start)
        self.nanoseconds[n.name] = min(times)
        return pytree.tree_map_only(Tensor, Tensor.detach, value)


def _cut_off(values: Any) -> tuple[Any, list[Tensor]]:
    """The same values, floating-point tensors copied, which an in-place operation may change; and their leaves."""
    leaves: list[Tensor] = []

    def copied(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        leaves.append(tensor.detach().requires_grad_())
        return leaves[-1].clone()

    return pytree.tree_map_only(Tensor, copied, values), leaves
