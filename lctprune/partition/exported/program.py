"""Trace a network by torch.export, where torch.fx cannot: models of `transformers`, and code that refuses proxies.

torch.export runs the network on tensors without values and writes down its operations. What it would lose without a
word (hooks, attributes and buffers assigned in `forward`) is refused here, and what was cut is compared with the
network itself, in both modes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from lctprune.errors import NetworkError, PartitionError, first_line
from lctprune.partition.exported.calling import PREFIX, OneTensor, is_sequence
from lctprune.partition.exported.input_limits import LARGE, InputLimits, limits_of
from lctprune.partition.exported.operations import MUTATES, plain_graph
from lctprune.partition.exported.remade import mark_remade
from lctprune.partition.preserving.comparing import (
    Observation,
    Observer,
    assigned_places,
    differing_gradient,
    differing_places,
)
from lctprune.partition.preserving.contexts import forget_gradients
from lctprune.partition.preserving.guarding import CONSTANT, Snapshot, matches, random_states
from lctprune.partition.preserving.modes import Modes, modes_of
from lctprune.partition.symbolic.attempts import BY_HAND, assigns
from lctprune.partition.symbolic.tracing import Traced, Tracing, aligned

BY_VALUE = "GuardOnDataDependentSymNode"  # torch.export's error where a path depends on the values of tensors
COUNTER = "num_batches_tracked"  # which batch norm counts up in place
BATCH = 3  # samples that are traced; fewer could be taken for a fixed size
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def trace_by_export(model: nn.Module, example: Tensor, snapshot: Snapshot, *, known: Tracing | None = None) -> Traced:
    """Trace a network of one input in both modes, for any batch size and any length of sequences.

    The model is afterwards as it was, except for constants of the graphs, which `unchanged` removes.

    Args:
        model: network.
        example: input, [batch, ...].
        snapshot: state of the model.
        known: how it was traced before; then it is not run to see what it assigns.

    Raises:
        PartitionError: the network cannot be traced, or does something that its graph would not do.
    """
    name = type(model).__name__
    if hooked := next((path for path, module in model.named_modules() if any(vars(module)[k] for k in _HOOKS)), None):
        raise PartitionError(f"{name} has hooks{_at(hooked)}, which layer groups would not call; {BY_HAND}")
    called, modes = OneTensor(model), modes_of(snapshot)
    batch = called.batch_of(example, BATCH)
    if known is None:
        _require_no_assignments(called, batch, modes, snapshot)
    graphs: list[fx.Graph] = []
    constants: dict[str, Any] = {}
    try:
        for mode in (False, True):
            snapshot.restore(**constants)
            modes.put(model, mode)
            program = _exported(called, batch)
            snapshot.restore(**constants)  # tensors without values may be left in it
            graph = _graph(program, model)
            constants = {key: value for key, value in vars(model).items() if key.startswith(CONSTANT)}
            mark_remade(graph, called.padding_id)
            forget_gradients(graph)
            graphs.append(graph)
    finally:
        snapshot.restore(**constants)
    evaluation, training = graphs
    return Traced(
        model, evaluation, training, aligned(evaluation, training), has_auxiliary=False, modes=modes, by_export=True
    )


def require_same(traced: Traced, parts: Sequence[nn.Module], example: Tensor, snapshot: Snapshot) -> None:
    """Compare layer groups with the network that they were cut from: outputs, gradients and changes of its state.

    Outputs are compared for several batch sizes and lengths in evaluation mode, gradients in training mode.

    Raises:
        PartitionError: they differ.
    """
    model, called, groups = traced.root, OneTensor(traced.root), nn.Sequential(*parts)
    if _is_meta(model):
        return

    def run(samples: Tensor) -> Any:
        return groups.train(model.training)(samples)

    for samples in called.variants(example):
        observer = Observer(snapshot, traced.modes, samples)
        try:
            expected = observer.observe(called, training=False)
        except Exception:
            continue
        try:
            actual = observer.observe(run, training=False)
        except NetworkError:  # refused by `InputLimits`, as any such input will be
            continue
        _require_match(model, expected, actual, f"inputs of {list(samples.shape)}")
    observer = Observer(snapshot, traced.modes, called.batch_of(example, 2))
    if (reference := observer.itself(called, training=True)) is not None:
        _require_match(model, reference, observer.observe(run, training=True), "a step of training")


def _require_match(model: nn.Module, expected: Observation, actual: Observation, where: str) -> None:
    is_other_state = differing_places(expected, actual) or differing_gradient(expected, actual)
    if is_other_state or not matches(expected.outputs, actual.outputs):
        raise PartitionError(
            f"{type(model).__name__} does not compute in groups what it computes as a whole ({where}); {BY_HAND}"
        )


def _require_no_assignments(called: OneTensor, batch: Tensor, modes: Modes, snapshot: Snapshot) -> None:
    """Run the network itself, and refuse it where it assigns attributes."""
    if _is_meta(called.model):
        return
    observer = Observer(snapshot, modes, batch)
    for path, name in assigned_places(*(observer.itself(called, training=mode) for mode in (False, True))):
        raise PartitionError(f"{type(called.model).__name__} cannot be traced{_at(path)} ({assigns(name)}); {BY_HAND}")


def _is_meta(model: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in model.state_dict().values())


def _at(path: str) -> str:
    return f" at {path}" if path else ""


def _exported(called: OneTensor, example: Tensor) -> ExportedProgram:
    """Export a network in its present mode.

    Raises:
        PartitionError: torch.export cannot, or the network draws random numbers or hangs hooks on gradients.
    """
    name = type(called.model).__name__
    sizes = {0: Dim.DYNAMIC, **({1: Dim.AUTO} if is_sequence(example) else {})}
    before = random_states()
    try:
        with _quietly(), _HooksRefused():
            program = torch.export.export(called, (example,), dynamic_shapes=(sizes,), strict=False)
    except PartitionError:
        raise
    except Exception as error:  # whatever the model's own code raises when it is traced
        if ".size()[0]" in str(error):
            reason = "it works for one batch size only; a size is x.shape[0], not len(x)"
            raise PartitionError(f"{name} cannot be traced ({reason}); {BY_HAND}") from None
        raise PartitionError(f"{name} cannot be traced ({_reason(error)}); {BY_HAND}") from error
    if random_states() != before:
        raise PartitionError(f"{name} draws random numbers in Python, which tracing would freeze; {BY_HAND}")
    return program


def _reason(error: Exception) -> str:
    if type(error).__name__ == BY_VALUE:
        return "its path depends on the values of tensors"
    return first_line(error)


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


class _HooksRefused(TorchFunctionMode):
    """Refuse gradient hooks, which torch.export loses."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ("register_hook", "register_post_accumulate_grad_hook"):
            raise PartitionError(
                f"its forward hangs a hook on a gradient, which layer groups would not call; {BY_HAND}"
            )
        return func(*args, **(kwargs or {}))


def _graph(program: ExportedProgram, model: nn.Module) -> fx.Graph:
    """Copy the graph of an exported network as a graph of the network itself.

    Raises:
        PartitionError: the network changes a buffer of its own, other than the statistics of batch norm; or its path
            depends on the batch size.
    """
    signature = program.graph_signature
    inputs = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    targets = {name: target.removeprefix(PREFIX) for name, target in inputs.items()}
    for name, target in signature.inputs_to_lifted_tensor_constants.items():
        targets[name] = _constant(model, program.constants[target])
    graph = plain_graph(program.graph_module, targets, model, PREFIX)
    x = next(iter(graph.nodes))
    samples = program.range_constraints.get(x.meta["val"].shape[0].node.expr)
    if samples is not None and (samples.lower > 2 or samples.upper < LARGE):  # torch.export leaves 0 and 1 out
        raise PartitionError(
            f"{type(model).__name__} cannot be traced "
            f"(its control flow depends on the number of samples in the batch); {BY_HAND}"
        )
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
