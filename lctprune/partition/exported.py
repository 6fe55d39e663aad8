"""Trace a network by torch.export, where torch.fx cannot: models of `transformers`, and paths that depend on shapes.

torch.export runs the network on tensors without values and writes down its operations. What it would lose without a word
(hooks, attributes kept for later, buffers assigned in `forward`) is refused here, and what was cut is compared with the
network itself, in both modes (`require_same`).
"""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from lctprune.errors import NetworkError, PartitionError, first_line
from lctprune.partition.calling import PREFIX, OneTensor, is_sequence, is_transformers_model
from lctprune.partition.operations import MUTATES, plain_graph
from lctprune.partition.remade import mark_remade
from lctprune.partition.tracing import BY_HAND, CONSTANT, Traced, aligned, trace
from lctprune.utils.modules import evaluation_mode, training_for_now

COUNTER = "num_batches_tracked"  # which batch norm counts up in place
_LARGE = 2**31  # sizes above are no limit
BATCH = 3  # samples that are traced; fewer could be taken for a fixed size
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def trace_network(model: nn.Module, example: Tensor) -> Traced:
    """Trace a network of one input in both modes: by torch.fx, or by torch.export where torch.fx cannot follow it.

    Errors and warnings are those of `trace` and `trace_by_export`.
    """
    if is_transformers_model(model):
        return trace_by_export(model, example)
    before = _Attributes(model)
    try:
        return trace(model)
    except PartitionError as refused:
        before.restore()  # as torch.fx may leave its own objects there
        if refused.__cause__ is None or isinstance(refused.__cause__, PartitionError):  # not for want of a graph
            raise
        try:
            return trace_by_export(model, example)
        except PartitionError as error:
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
    called = OneTensor(model)
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


def _exported(called: OneTensor, example: Tensor) -> ExportedProgram:
    """Export a network.

    Raises:
        PartitionError: torch.export cannot, or the network has side effects.
    """
    name = type(called.model).__name__
    sizes = {0: Dim.DYNAMIC, **({1: Dim.AUTO} if is_sequence(example) else {})}
    states = _random_states()
    try:
        with _unchanged(called.model), _quietly(), _HooksRefused():
            program = torch.export.export(called, (example,), dynamic_shapes=(sizes,), strict=False)
    except PartitionError:
        raise
    except Exception as error:  # whatever the model's own code raises when it is traced
        raise PartitionError(f"{name} cannot be traced ({_reason(error)}); {BY_HAND}") from error
    if _random_states() != states:
        raise PartitionError(f"{name} draws random numbers in Python, which tracing would freeze; {BY_HAND}")
    return program


def _reason(error: Exception) -> str:
    if type(error).__name__ == "GuardOnDataDependentSymNode":
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


class _HooksRefused(TorchFunctionMode):
    """Refuses gradient hooks, which torch.export loses."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ("register_hook", "register_post_accumulate_grad_hook"):
            raise PartitionError(f"its forward hangs a hook on a gradient, which layer groups would not call; {BY_HAND}")
        return func(*args, **(kwargs or {}))


class _Attributes:
    """Every attribute of a network's modules at one time."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = [(path, vars(module)) for path, module in model.named_modules()]
        self.attributes = [dict(now) for _, now in self.modules]
        self.contents = [_content(now) for _, now in self.modules]

    def restore(self) -> list[str]:
        """Restore the attributes, and name those that had changed."""
        changed = []
        for (path, now), attributes, content in zip(self.modules, self.attributes, self.contents, strict=True):
            for key in {**attributes, **now}:
                if key not in attributes or key not in now or not _alike(content[key], _content(now[key])):
                    changed.append(f"{path}.{key}".lstrip("."))
            now.clear()
            now.update(attributes)
            for key, value in attributes.items():
                _refill(value, content[key])
        return changed


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Restore every attribute of a network's modules on exit.

    Raises:
        PartitionError: one was changed inside.
    """
    before, changed = _Attributes(model), []
    try:
        yield
    finally:
        changed = before.restore()
    if changed:
        raise PartitionError(
            f"{type(model).__name__} changes {changed[0]} when it runs, which layer groups would not do; {BY_HAND}"
        )


def _content(value: Any) -> Any:
    """Copy containers, and keep all else as it is."""
    if isinstance(value, dict):
        return {key: _content(each) for key, each in value.items()}
    return [_content(each) for each in value] if isinstance(value, list | tuple | set) else value


def _refill(container: Any, content: Any) -> None:
    """Give a container the elements that it had."""
    if isinstance(container, dict) and len(container) != len(content):
        for key in container.keys() - content.keys():
            del container[key]
        container.update(content)
    elif isinstance(container, list) and len(container) != len(content):
        container[:] = content


def _alike(before: Any, now: Any) -> bool:
    if isinstance(before, dict) and isinstance(now, dict):
        return before.keys() == now.keys() and all(_alike(before[key], now[key]) for key in before)
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_alike, before, now))
    return before is now or (isinstance(before, bool | int | float | str) and before == now)


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
        graph.call_function(InputLimits(type(model).__name__, _limits(program, x.meta["val"].shape)), (x,))
    for node in graph.nodes:
        for changed in _changed_by(node):
            if not changed.endswith(COUNTER) and not changed.startswith(CONSTANT):
                raise PartitionError(
                    f"{type(model).__name__} changes its buffer {changed} when it runs, which layer groups would not "
                    f"do; {BY_HAND}"
                )
    return graph


class InputLimits:
    """The sizes of inputs for which a traced network is right; a part of its graph.

    Args:
        name: name of the network, for messages.
        limits: least and largest size of each dimension but the first; None where there is no largest.
    """

    def __init__(self, name: str, limits: Sequence[tuple[int, int | None]]) -> None:
        self.__name__ = "input_limits"
        self.name, self.limits = name, limits

    def __call__(self, x: Tensor) -> None:
        """Refuse an input of another size.

        Raises:
            NetworkError: the input has such a size.
        """
        if torch.jit.is_tracing():  # sizes are tensors then
            return
        sizes = x.shape[1:]
        if len(sizes) != len(self.limits) or any(
            size < least or (most is not None and size > most)
            for size, (least, most) in zip(sizes, self.limits, strict=False)
        ):
            wanted = ", ".join(_range(*each) for each in self.limits)
            raise NetworkError(
                f"{self.name} was traced for inputs of [batch, {wanted}], and got {list(x.shape)}; build it with an "
                "example of this size"
            )

    def __repr__(self) -> str:
        return self.__name__


def _range(least: int, most: int | None) -> str:
    if least == most:
        return str(least)
    return f"{least} or more" if most is None else f"{least} to {most}"


def _limits(program: ExportedProgram, shape: Sequence[Any]) -> list[tuple[int, int | None]]:
    """Return the least and the largest size of each dimension but the first."""
    found: list[tuple[int, int | None]] = []
    for size in shape[1:]:
        if isinstance(size, int):
            found.append((size, size))
        else:
            limits = program.range_constraints.get(size.node.expr)
            least, most = (1, _LARGE) if limits is None else (int(limits.lower), limits.upper)
            least = 1 if least == 2 else least  # torch.export leaves 1 out; `require_same` tries it
            found.append((least, int(most) if most < _LARGE else None))
    return found


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


def require_same(model: nn.Module, parts: Sequence[nn.Module], example: Tensor) -> None:
    """Compare layer groups with the network that they were cut from: outputs, gradients and changed buffers.

    Outputs are compared for several batch sizes and lengths in evaluation mode, gradients in training mode.

    Raises:
        PartitionError: they differ.
    """
    called, groups = OneTensor(model), nn.Sequential(*parts)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        return
    with evaluation_mode(nn.ModuleList([called, groups])), torch.no_grad():
        for samples in called.variants(example):
            try:
                expected = called(samples)
            except Exception:  # noqa: S112 - the network does not take inputs of this shape
                continue
            try:
                actual = groups(samples)
            except NetworkError:  # refused by `InputLimits`, as any such input will be
                continue
            _require_close(model, [expected], [actual], f"inputs of {list(samples.shape)}")
    samples = called.batch_of(example, 2)
    expected_step, step = (_training_step(each, called, groups, samples) for each in (called, groups))
    _require_close(model, expected_step, step, "a step of training")


def _training_step(network: nn.Module, called: nn.Module, groups: nn.Module, samples: Tensor) -> list[Tensor]:
    """Return the output, gradients and buffers of a step in training mode, and restore what it changes."""
    with training_for_now(nn.ModuleList([called, groups])):
        torch.manual_seed(0)
        output = network(samples)
        (output * torch.linspace(1, 2, output.numel()).reshape(output.shape).to(output)).sum().backward()
        gradients = [parameter.grad for parameter in called.parameters()]
        return [output.detach(), *(each for each in gradients if each is not None), *map(torch.clone, called.buffers())]


def _require_close(model: nn.Module, expected: Sequence[Tensor], actual: Sequence[Tensor], where: str) -> None:
    if len(expected) == len(actual) and all(map(_is_close, expected, actual)):
        return
    raise PartitionError(
        f"{type(model).__name__} does not compute in groups what it computes as a whole ({where}); {BY_HAND}"
    )


def _is_close(left: Tensor, right: Tensor) -> bool:
    scale = float(left.abs().max()) if left.numel() else 0.0
    return left.shape == right.shape and torch.allclose(left, right, rtol=0, atol=1e-3 * scale + 1e-6, equal_nan=True)
