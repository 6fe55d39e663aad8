"""What every node of a network's graph gives and costs, from running it node by node."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from lctprune.measure.costs import counting_flops, saving_bytes
from lctprune.partition.tracing import nodes_of
from lctprune.utils.modules import evaluation_mode

BATCH = 2  # samples of the run that counts: with more than one, the batch is told from other sides of length 1


class NodeCost(NamedTuple):
    """What one node gives and costs, for one sample."""

    shape: tuple[int, ...] | None  # of the tensor it gives, without the batch; None: no floating-point batch
    flops: int
    memory_bytes: int  # saved for its backward pass
    is_overwritten: bool = False  # by a later node, in place


def node_costs(root: nn.Module, graph: fx.Graph, example: Tensor) -> list[NodeCost]:
    """Costs of all nodes but the output, in order, in evaluation mode.

    Args:
        root: the network.
        graph: of it.
        example: an input, [batch, ...].

    Raises:
        UnknownOperationError: a node's operation is not known to the FLOP counter.
    """
    module = fx.GraphModule(root, graph)
    with evaluation_mode(module), torch.enable_grad():
        counter = _Counter(module)
        counter.run(example[:1].detach().repeat_interleave(BATCH, 0))  # of its own storage: bytes are counted by that
    return [
        counter.costs[node.name]._replace(is_overwritten=node.name in counter.overwritten) for node in nodes_of(graph)
    ]


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
