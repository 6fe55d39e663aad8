"""Turn a graph of torch.export into one of ordinary PyTorch functions and of the network's own layers.

torch.export writes down ATen operations on parameters. Here each becomes the function or method of torch that does it,
so that sizes stay variable when a group is converted to TorchScript, and the operations of a layer (`nn.Linear`,
`nn.BatchNorm2d`) become a call of that layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from lctprune.errors import PartitionError

MUTATES = "mutates"  # mark of an operation that changes a tensor in place
RANDOM = "random"  # mark of an operation that draws random numbers
_END = 2**62  # a slice without an end has a larger one
_CHECKS = {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size"}
_LEFT_OUT = {"pin_memory", "layout"}  # arguments that are as is usual
_SAME = {"alias", "lift_fresh_copy"}  # of constants, which nothing changes


def plain_graph(exported: fx.GraphModule, targets: Mapping[str, str], model: nn.Module, prefix: str) -> fx.Graph:
    """Copy a graph of torch.export, of one input and one output, as a graph of `model`.

    Args:
        exported: graph, whose parameters and buffers are inputs.
        targets: map from the names of these inputs to those of the model's parameters, buffers and constants.
        model: network whose layers the graph calls.
        prefix: prefix of the paths of the model's modules in the graph.
    """
    graph = fx.Graph()
    values: dict[fx.Node, Any] = {}
    calls = _layer_calls(exported.graph, targets, model, prefix)

    def value_of(node: fx.Node) -> Any:
        return graph.get_attr(targets[node.name]) if node.name in targets else values[node]

    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name not in targets:
            values[node] = graph.placeholder("x")
        elif node.op == "call_function" and node in calls:
            path, source, is_last = calls[node]
            if not is_last:
                continue
            values[node] = graph.call_module(path, (values[source],))
        elif node.op == "call_function":
            values[node] = _converted(graph, exported, node, value_of)
        elif node.op == "output":
            (outputs,) = node.args
            graph.output(value_of(outputs[0]))
        if isinstance(new := values.get(node), fx.Node):
            new.meta.setdefault("val", node.meta.get("val"))
            new.meta.setdefault("nn_module_stack", _stack(node, prefix))
    return graph


def mutates(node: fx.Node) -> bool:
    """Tell whether a node of a graph of torch.export changes a tensor in place."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.is_mutable) and not str(node.target).startswith("aten.detach_")


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _stack(node: fx.Node, prefix: str) -> dict[str, Any]:
    """Return the modules that a node belongs to, outermost first, as torch.fx notes them."""
    found = {}
    for path, kind in node.meta.get("nn_module_stack", {}).values():
        path = path.partition("@")[0]
        if path.startswith(prefix) and path != prefix.rstrip("."):
            found[path.removeprefix(prefix)] = (path.removeprefix(prefix), kind)
    return found


def _layer_calls(
    graph: fx.Graph, targets: Mapping[str, str], model: nn.Module, prefix: str
) -> dict[fx.Node, tuple[str, fx.Node, bool]]:
    """Find the operations that are together one call of a layer of torch.nn.

    Returns:
        For each, the layer's path, its input, and whether it is the operation that makes the output.
    """
    calls: dict[fx.Node, tuple[str, fx.Node, bool]] = {}
    operations = [node for node in graph.nodes if node.op == "call_function" and not _is_check(node)]
    for key, run in itertools.groupby(operations, _innermost):
        nodes = list(run)
        if (path := _layer_path(nodes[0], model, prefix)) is None or key is None:
            continue
        inside = set(nodes)
        sources = {each for node in nodes for each in node.all_input_nodes} - inside
        own = {each for each in sources if targets.get(each.name, "").rpartition(".")[0] == path}
        ends = [node for node in nodes if any(user not in inside and not _is_check(user) for user in node.users)]
        given = sources - own
        if len(given) == 1 and len(ends) == 1 and not any(each.name in targets for each in given):
            calls |= {node: (path, next(iter(given)), node is ends[0]) for node in nodes}
    return calls


def _innermost(node: fx.Node) -> str | None:
    return next(reversed(node.meta.get("nn_module_stack", {})), None)


def _layer_path(node: fx.Node, model: nn.Module, prefix: str) -> str | None:
    """Return the path of the layer of torch.nn whose operation a node is; None if it is not one."""
    path = next(reversed(_stack(node, prefix)), None)
    last = next(reversed(node.meta.get("nn_module_stack", {}).values()), ("", ""))[0].partition("@")[0]
    if path is None or prefix + path != last:
        return None
    module = model.get_submodule(path)
    kind = type(module)
    is_layer = kind.__module__.startswith("torch.nn.modules.") and getattr(nn, kind.__name__, None) is kind
    return path if is_layer and not list(module.children()) else None


def _is_check(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.name.partition("::")[2] in _CHECKS


def _converted(graph: fx.Graph, exported: fx.GraphModule, node: fx.Node, value_of: Callable[[fx.Node], Any]) -> Any:
    """Add to `graph` what one operation does; return its value there, None for a check of what is known anyway."""
    name = _name(node)
    if _is_check(node):
        return None
    if name in _SAME:
        return value_of(node.args[0])  # type: ignore[arg-type]
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return _region(graph, exported, node, value_of)
    args: Any = map_arg(node.args, value_of)
    kwargs: Any = {key: value for key, value in map_arg(node.kwargs, value_of).items() if key not in _LEFT_OUT}
    devices = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.device)]
    if devices:  # the groups may be moved
        here = graph.call_function(getattr, (next(iter(graph.nodes)), "device"))
        args, kwargs = (
            map_aggregate(each, lambda a: here if isinstance(a, torch.device) else a) for each in (args, kwargs)
        )
    kind, target = _python_form(name, node.target)
    new = graph.create_node(kind, target, tuple(args), dict(kwargs))
    new.meta[MUTATES] = mutates(node)
    new.meta[RANDOM] = _is_random(node)
    return new


def _name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name.partition("::")[2]) if schema and schema.name.startswith("aten::") else ""


def _python_form(name: str, operation: Any) -> tuple[str, Any]:
    """Return the kind of node and the function or the method of a tensor that does what an operation does."""
    special: dict[str, tuple[str, Any]] = {
        "sym_size": ("call_method", "size"),
        "view": ("call_method", "reshape"),  # training's channels-last tensors cannot be viewed
        "slice": ("call_function", sliced),
        "index": ("call_function", indexed),
        "detach_": ("call_method", "detach"),
    }
    if name in special:
        return special[name]
    for module in (torch, torch._C._nn):
        if isinstance(function := getattr(module, name or "-", None), type(torch.add)):
            return "call_function", function
    if name and hasattr(Tensor, name):
        return "call_method", name
    return "call_function", operation


def sliced(x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    """Return a part of a tensor along one dimension."""
    end = None if isinstance(end, int) and end > _END else end
    return x[(slice(None),) * (dim % x.dim()) + (slice(start, end, step),)]


def indexed(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """Return the elements at positions along the first dimensions; None keeps all of a dimension."""
    return x[tuple(slice(None) if each is None else each for each in indices)]


class Region:
    """A part of a network in another mode: without gradients, or with other settings of autocast.

    Args:
        description: mode, for the graph.
        body: graph of the part.
        mode: function of the device's type that returns the context in which the part runs.
    """

    def __init__(self, description: str, body: fx.Graph, mode: Callable[[str], Any]) -> None:
        self.__name__ = self.description = description
        self.mode = mode
        self.body = fx.GraphModule(nn.Module(), body)

    def __call__(self, *args: Any) -> Any:
        """Run the part in its mode."""
        device = next((each.device.type for each in args if isinstance(each, Tensor)), "cpu")
        with self.mode(device):
            return self.body.forward(*args)

    def __repr__(self) -> str:
        return self.description


def _region(graph: fx.Graph, exported: fx.GraphModule, node: fx.Node, value_of: Callable[[fx.Node], Any]) -> fx.Node:
    """Add a call of a region, which torch.export writes as an operation on a graph of its own.

    Raises:
        PartitionError: it is an operation of another kind.
    """
    kind = str(node.target)
    position = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}.get(kind)
    if position is None:
        raise PartitionError(f"it uses {kind}, which cannot be cut")
    settings: Any = node.args[:position]
    body, operands = node.args[position], node.args[position + 1 :]
    source: fx.GraphModule = getattr(exported, str(body.target))  # type: ignore[union-attr]
    part = _body(source)
    if position == 1:
        region = Region(
            "no_grad" if not settings[0] else "enable_grad", part, lambda _: torch.set_grad_enabled(*settings)
        )
    else:
        _, dtype, enabled, cache = settings
        region = Region("autocast", part, lambda type: torch.autocast(type, dtype, enabled, cache))
    new = graph.call_function(region, tuple(map_arg(operands, value_of)))
    new.meta[MUTATES] = any(map(mutates, source.graph.nodes))
    new.meta[RANDOM] = any(map(_is_random, source.graph.nodes))
    return new


def _body(part: fx.GraphModule) -> fx.Graph:
    graph = fx.Graph()
    values: dict[fx.Node, Any] = {}
    for node in part.graph.nodes:
        if node.op == "placeholder":
            values[node] = graph.placeholder(node.name)
        elif node.op == "call_function":
            values[node] = _converted(graph, part, node, values.__getitem__)
        elif node.op == "output":
            graph.output(map_arg(node.args[0], values.__getitem__))
    return graph
