"""Choose the tracer of a network: torch.fx, or torch.export where torch.fx cannot follow the network's code."""

from __future__ import annotations

import warnings

from torch import Tensor, fx, nn

from lctprune.errors import NetworkWarning, PartitionError
from lctprune.measure.costs import count_parameters
from lctprune.partition.exported.calling import is_transformers_model
from lctprune.partition.exported.program import trace_by_export
from lctprune.partition.preserving.guarding import CONSTANT, Snapshot
from lctprune.partition.symbolic.tracer import UnfollowedError
from lctprune.partition.symbolic.tracing import Traced, Tracing, trace


def trace_network(model: nn.Module, example: Tensor, *, snapshot: Snapshot, known: Tracing | None = None) -> Traced:
    """Trace a network of one input in both modes.

    torch.export traces models of `transformers`, and networks that torch.fx cannot follow, or not into the submodule
    that holds most of them. What was refused for what it does, such as assigning attributes, stays refused.

    Args:
        model: network.
        example: input, [batch, ...].
        snapshot: state of the model.
        known: how it was traced before; then nothing is compared or chosen.

    Raises:
        PartitionError: the network cannot be traced without loss.
        NetworkError: the network does not run on the example.

    Warns:
        NetworkWarning: auxiliary outputs are left out; or most of the network is kept whole.
    """
    if known is not None and known.tracer == "fx":
        return trace(model, example, snapshot=snapshot, known=known)
    if known is not None or is_transformers_model(model):
        return trace_by_export(model, example, snapshot, known=known)
    try:
        traced = trace(model, example, snapshot=snapshot)
    except PartitionError as refused:
        if not isinstance(refused.__cause__, UnfollowedError):
            raise
        try:
            return trace_by_export(model, example, snapshot)
        except PartitionError as error:
            if error.__cause__ is None:  # it was refused for what it does
                raise error from refused
            raise refused from error  # which names the line of code
    if (most := _whole_most(traced)) is None:
        return traced
    constants = {name: value for name, value in vars(model).items() if name.startswith(CONSTANT)}
    try:
        return trace_by_export(model, example, snapshot)
    except PartitionError:
        reason = traced.whole[most]
        text = f"{most} holds most of {type(model).__name__}, and no cut point is inside: {reason}"
        warnings.warn(text, NetworkWarning, stacklevel=3)
        snapshot.restore(**constants)
        return traced


def _whole_most(traced: Traced) -> str | None:
    """Name a submodule that is kept whole, though it is no single layer, and has most of the network's parameters."""
    total, layers = count_parameters(traced.root), fx.Tracer()
    for path in traced.whole:
        module = traced.root.get_submodule(path)
        if 2 * count_parameters(module) > total and not layers.is_leaf_module(module, path):
            return path
    return None
