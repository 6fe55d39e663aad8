"""Compare what a traced network computes with what the network itself computes: outputs, gradients, buffers, state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lctprune.errors import LctpruneError, NetworkError, first_line
from lctprune.partition.preserving.contexts import plain_context
from lctprune.partition.preserving.guarding import Place, Snapshot, describe, matches
from lctprune.partition.preserving.modes import Modes

BATCH = 3  # samples of the batch on which both run; no size that tracing has seen
_Run = Callable[[Tensor], Any]


class Observation(NamedTuple):
    """What one run of a network did.

    Attributes:
        outputs: description of what it returned.
        gradients: gradients of its parameters for a fixed gradient of its outputs, by name; empty in evaluation mode.
        changes: description of each attribute, parameter and buffer that it changed.
        assigned: places of those that are other objects than before.
    """

    outputs: Any
    gradients: dict[str, Tensor]
    changes: dict[Place, Any]
    assigned: frozenset[Place]


class Observer:
    """Runs a network, or its graph, from one state of the network, and observes what it does.

    Args:
        snapshot: state of the network.
        modes: modes of its modules.
        batch: input, [batch, ...].
    """

    def __init__(self, snapshot: Snapshot, modes: Modes, batch: Tensor) -> None:
        self._snapshot, self._modes, self._batch = snapshot, modes, batch

    def itself(self, network: _Run, *, training: bool) -> Observation | None:
        """Observe the network itself, maybe within what calls it; None where it does not run in training mode.

        Raises:
            NetworkError: it does not run in evaluation mode.
        """
        if not training:
            with must_run(self._snapshot.model, self._batch[:1]):
                return self.observe(network, training=False)
        try:
            return self.observe(network, training=True)
        except Exception:  # training will say so, if the network is trained
            return None

    def observe(self, run: _Run, *, training: bool, constants: Mapping[str, object] | None = None) -> Observation:
        """Run the network, or a graph of it with constants, in one mode."""
        model = self._snapshot.model
        self._snapshot.restore(**(constants or {}))
        self._modes.put(model, training)
        with plain_context(), torch.set_grad_enabled(training):
            output = run(self._batch.clone())
            changes = self._snapshot.changes()
            assigned = frozenset(place for place in changes if not self._snapshot.is_in_place(place))
            gradients = _gradients(model, output) if training else {}
        return Observation(describe(output, Tensor.detach), gradients, changes, assigned)


def assigned_places(*observations: Observation | None) -> list[Place]:
    """List the attributes, parameters and buffers that runs assigned, so that they are other objects than before."""
    return sorted({place for each in observations if each for place in each.assigned})


def differing_places(left: Observation, right: Observation) -> list[Place]:
    """List the attributes, parameters and buffers that two runs changed in different ways."""
    places = dict.fromkeys([*left.changes, *right.changes])
    return [place for place in places if not matches(left.changes.get(place), right.changes.get(place))]


def differing_gradient(left: Observation, right: Observation) -> str | None:
    """Name the last parameter whose gradient is not the same in two runs; None if there is none."""
    names = dict.fromkeys([*left.gradients, *right.gradients])
    differing = [name for name in names if not matches(left.gradients.get(name), right.gradients.get(name))]
    return differing[-1] if differing else None


@contextmanager
def calls_of(model: nn.Module, paths: Iterable[str]) -> Iterator[list[tuple[str, Any]]]:
    """List the calls of some submodules inside the block, with a description of what each returned."""
    calls: list[tuple[str, Any]] = []

    def noting(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, __, output: calls.append((path, describe(output, lambda each: each.detach().clone())))

    handles = [model.get_submodule(path).register_forward_hook(noting(path)) for path in paths]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def must_run(model: nn.Module, example: Tensor) -> Iterator[None]:
    """Turn any error of the model's own code inside into a `NetworkError`."""
    try:
        yield
    except LctpruneError:
        raise
    except Exception as error:  # whatever the model's own code raises
        raise NetworkError(
            f"{type(model).__name__} does not run on an input of {list(example.shape)} ({first_line(error)}); "
            "check that the data and the image size are what it expects"
        ) from error


def varied(example: Tensor) -> Tensor:
    """Make a batch of `BATCH` samples that differ, with values like those of the example's first sample."""
    sample = example[:1].detach()
    batch = torch.cat([sample.roll(shift, -1) if sample.dim() > 1 else sample for shift in range(BATCH)])
    if not batch.is_floating_point():
        return batch
    spread = float(sample.max() - sample.min()) if sample.numel() else 0.0
    noise = torch.rand(batch.shape, generator=torch.Generator().manual_seed(0)).to(batch)
    return batch + noise * (0.1 * spread or 1.0)


def _gradients(model: nn.Module, output: Any) -> dict[str, Tensor]:
    given = [each for each in tree_leaves(output) if isinstance(each, Tensor) and each.requires_grad]
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not given or not trained:
        return {}
    weights = [torch.linspace(-1, 1, each.numel()).to(each).reshape(each.shape) for each in given]
    found = torch.autograd.grad(given, list(trained.values()), weights, allow_unused=True)
    return {name: each for name, each in zip(trained, found, strict=True) if each is not None}
