"""Measure the results and costs of every node of a network's graph, by running it node by node."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, fx, nn

from lctprune.measure.costs import FlopCount, counting_flops, saving_bytes
from lctprune.partition.preserving.contexts import context_of, entered
from lctprune.partition.symbolic.graphs import nodes_of
from lctprune.utils.modules import evaluation_mode

BATCH = 2  # samples per run: with more than one, the batch is told from other dimensions of length 1
_T = TypeVar("_T")
_Measuring = Callable[[], AbstractContextManager[Callable[[], _T]]]


class NodeRun(NamedTuple, Generic[_T]):
    """What one node returned, and what was measured while it ran."""

    shape: tuple[int, ...]  # of the tensor, without the batch; empty where it is no tensor
    is_batch: bool  # whether it is a floating-point tensor, of a type that critics take, with one row per sample
    is_overwritten: bool  # whether a later node changed it in place
    measured: _T


def run_nodes(root: nn.Module, graph: fx.Graph, example: Tensor) -> list[NodeRun[None]]:
    """Run a graph once in evaluation mode and describe what each node but the output returns, in order.

    Args:
        root: network to which the graph belongs.
        graph: graph of the network.
        example: input, [batch, ...], of which the first sample is used.
    """
    with torch.no_grad():
        return _run(root, graph, example, lambda: nullcontext(lambda: None))


def count_node_flops(root: nn.Module, graph: fx.Graph, example: Tensor) -> list[NodeRun[FlopCount]]:
    """Run a graph as `run_nodes` does, and count each node's FLOPs for one sample."""
    with torch.no_grad():
        runs = _run(root, graph, example, counting_flops)
    return [run._replace(measured=run.measured._replace(known=run.measured.known // BATCH)) for run in runs]


def count_node_memory(root: nn.Module, graph: fx.Graph, example: Tensor) -> list[int]:
    """Run a graph as `run_nodes` does, and count the bytes that each node saves for one sample's backward pass."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in root.parameters()}
    with torch.enable_grad():  # storages that an earlier node saved are kept until the backward pass: they count once
        runs = _run(root, graph, example, partial(saving_bytes, set(), ignored=parameters))
    return [run.measured // BATCH for run in runs]


def _run(root: nn.Module, graph: fx.Graph, example: Tensor, measuring: _Measuring[_T]) -> list[NodeRun[_T]]:
    module = fx.GraphModule(root, graph)
    interpreter = _Interpreter(module, measuring)
    with evaluation_mode(module):
        interpreter.run(example[:1].detach().repeat_interleave(BATCH, 0))  # has its own storage, by which bytes count
    runs, overwritten = interpreter.runs, interpreter.overwritten
    return [runs[node.name]._replace(is_overwritten=node.name in overwritten) for node in nodes_of(graph)]


def _cut_dtypes(module: nn.Module) -> set[torch.dtype]:
    """Return the types of tensors that a critic takes: not the reduced ones that only an autocast region makes."""
    full, reduced = {torch.float32, torch.float64}, {torch.float16, torch.bfloat16}
    own = {parameter.dtype for parameter in module.parameters()}
    return full | reduced if own & reduced and not own & full else full


class _Interpreter(fx.Interpreter, Generic[_T]):
    """Notes what each node returns, what is measured meanwhile, and which tensors are overwritten."""

    def __init__(self, module: fx.GraphModule, measuring: _Measuring[_T]) -> None:
        super().__init__(module)
        self.extra_traceback = False  # errors of this package have one line
        self.measuring = measuring
        self.dtypes = _cut_dtypes(module)
        self.runs: dict[str, NodeRun[_T]] = {}
        self.overwritten: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        inputs = {node.name: self.env[node] for node in n.all_input_nodes if isinstance(self.env[node], Tensor)}
        versions = {name: tensor._version for name, tensor in inputs.items()}
        with self.measuring() as measured, entered(context_of(n)):
            value = super().run_node(n)
        self.overwritten |= {name for name, tensor in inputs.items() if tensor._version != versions[name]}
        is_tensor = isinstance(value, Tensor)
        is_batch = is_tensor and value.dtype in self.dtypes and value.dim() > 1 and len(value) == BATCH
        shape = tuple(value.shape[1:]) if is_tensor else ()
        self.runs[n.name] = NodeRun(shape, is_batch, is_overwritten=False, measured=measured())
        return value
