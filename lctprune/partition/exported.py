"""Trace a network by torch.export, where torch.fx cannot: models of `transformers`, and paths that depend on shapes.

torch.export runs the network on tensors without values and writes down its operations. What it would lose without a
word (hooks, attributes kept for later, buffers assigned in `forward`) is refused here, and what was cut is compared
with the network itself, in both modes (`comparing`).
"""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from lctprune.errors import PartitionError, first_line
from lctprune.partition.calling import PREFIX, is_sequence, is_transformers_model
from lctprune.partition.input_limits import InputLimits, limits_of
from lctprune.partition.operations import MUTATES, plain_graph
from lctprune.partition.remade import mark_remade
from lctprune.partition.tracing import BY_HAND, CONSTANT, Traced, aligned, trace
from lctprune.partition.watching import Attributes, HooksRefused, Watched
from lctprune.utils.modules import evaluation_mode

BY_VALUE = "GuardOnDataDependentSymNode"  # torch.export's error where a path depends on the values of tensors
COUNTER = "num_batches_tracked"  # which batch norm counts up in place
BATCH = 3  # samples that are traced; fewer could be taken for a fixed size
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def trace_network(model: nn.Module, example: Tensor) -> Traced:
    """Trace a network of one input in both modes: by torch.fx, or by torch.export where torch.fx cannot follow it.

    Errors and warnings are those of `trace` and `trace_by_export`.
    """
    if is_transformers_model(model):
        return trace_by_export(model, example)
    before = Attributes(model)
    try:
        return trace(model)
    except PartitionError as refused:
        before.restore()  # as torch.fx may leave its own objects there
        if refused.__cause__ is None or isinstance(refused.__cause__, PartitionError):  # not for want of a graph
            raise
        try:
            return trace_by_export(model, example)
        except PartitionError as error:
            if type(error.__cause__).__name__ == BY_VALUE:  # which torch.fx has found too, and says in which module
                raise refused from error
            raise error from refused


def trace_by_export(model: nn.Module, example: Tensor) -> Traced:
    """Trace a network of one input in both modes, for any batch size and any length of sequences.

    Args:
        model: network; constants that it makes are left in it (see `without_leftovers`).
        example: input, [batch, ...].

    Raises:
        PartitionError: the network cannot be traced, or does something that its graph would not do.
    """
    name = type(model).__name__
    if hooked := next((path for path, module in model.named_modules() if any(vars(module)[k] for k in _HOOKS)), None):
        raise PartitionError(f"{name} has hooks{_at(hooked)}, which layer groups would not call; {BY_HAND}")
    called = Watched(model)
    graphs = []
    with evaluation_mode(model):  # restores each module's own mode
        for mode in (False, True):
            model.train(mode)
            program = _exported(called, called.batch_of(example, BATCH))
            graph = _graph(program, model, training=mode)
            mark_remade(graph, called.padding_id)
            graphs.append(graph)
    evaluation, training = graphs
    return Traced(model, evaluation, training, aligned(evaluation, training), has_auxiliary=False, by_export=True)


def _at(path: str) -> str:
    return f" at {path}" if path else ""


def _exported(called: Watched, example: Tensor) -> ExportedProgram:
    """Export a network.

    Raises:
        PartitionError: torch.export cannot, or the network has side effects.
    """
    name = type(called.model).__name__
    sizes = {0: Dim.DYNAMIC, **({1: Dim.AUTO} if is_sequence(example) else {})}
    states, left = _random_states(), Attributes(called.model)
    try:
        with _quietly(), HooksRefused():
            program = torch.export.export(called, (example,), dynamic_shapes=(sizes,), strict=False)
    except PartitionError:
        raise
    except Exception as error:  # whatever the model's own code raises when it is traced
        raise PartitionError(f"{name} cannot be traced ({_reason(error)}); {BY_HAND}") from error
    finally:
        left.restore()
    if called.changes.names:
        raise PartitionError(
            f"{name} changes {called.changes.names[0]} when it runs, which layer groups would not do; {BY_HAND}"
        )
    if _random_states() != states:
        raise PartitionError(f"{name} draws random numbers in Python, which tracing would freeze; {BY_HAND}")
    return program


def _reason(error: Exception) -> str:
    if type(error).__name__ == BY_VALUE:
        return "its path depends on the values of tensors"
    if ".size()[0]" in str(error):
        return "it works for one batch size only; a size is x.shape[0], not len(x)"
    return first_line(error)


def _random_states() -> tuple[object, ...]:
    return random.getstate(), str(numpy.random.get_state())


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence torch.export, which logs the whole graph when it fails."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _graph(program: ExportedProgram, model: nn.Module, *, training: bool) -> fx.Graph:
    """Copy the graph of an exported network as a graph of the network itself.

    Raises:
        PartitionError: the network changes a buffer of its own, other than the statistics of batch norm.
    """
    signature = program.graph_signature
    inputs = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    targets = {name: target.removeprefix(PREFIX) for name, target in inputs.items()}
    for name, target in signature.inputs_to_lifted_tensor_constants.items():
        targets[name] = _constant(model, program.constants[target])
    graph = plain_graph(program.graph_module, targets, model, PREFIX, training=training)
    x = next(iter(graph.nodes))
    with graph.inserting_after(x):
        graph.call_function(InputLimits(type(model).__name__, limits_of(program, x.meta["val"].shape)), (x,))
    for node in graph.nodes:
        for changed in _changed_by(node):
            if not changed.endswith(COUNTER) and not changed.startswith(CONSTANT):
                raise PartitionError(
                    f"{type(model).__name__} changes its buffer {changed} when it runs, which layer groups would not "
                    f"do; {BY_HAND}"
                )
    return graph


def _constant(model: nn.Module, value: Tensor) -> str:
    """Store a tensor that a network makes itself in the network, as tracing does."""
    names = [name for name in vars(model) if name.startswith(CONSTANT)]
    known = next((name for name in names if getattr(model, name) is value), None)
    if known is None:
        known = f"{CONSTANT}{len(names)}"
        object.__setattr__(model, known, value)
    return known


def _changed_by(node: fx.Node) -> list[str]:
    """Name the tensors of the network's own that an operation changes in place."""
    if not node.meta.get(MUTATES) or not node.all_input_nodes:
        return []
    changed = node.all_input_nodes if not isinstance(node.args[0], fx.Node) else [node.args[0]]
    seen: list[str] = []
    for each in changed:
        while each.op in ("call_function", "call_method") and each.all_input_nodes:  # a view of what it belongs to
            each = each.all_input_nodes[0]
        if each.op == "get_attr":
            seen.append(str(each.target))
    return seen
