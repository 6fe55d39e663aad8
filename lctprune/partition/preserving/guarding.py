"""Guard a user's model: whatever runs or traces it, it is afterwards what it was before, to the bit."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

MAX_DEPTH = 4  # of containers and plain objects within the attributes of a module
TOLERANCE = 1e-4  # relative, of numbers that are computed twice
LEAST = 1e-2  # scale below which they are rounding errors, as the gradient of the bias of an attention's keys
CONSTANT = "_tensor_constant"  # how torch.fx names tensors that a network makes itself, which it stores in the model
_OTHER = {"_parameters", "_buffers", "_modules", "training"}

Place = tuple[str, str]  # path of a module, and name of an attribute, parameter or buffer of it


class _Kept(NamedTuple):
    """A tensor, and what it was."""

    tensor: Tensor
    data: Tensor  # shares its memory
    value: Tensor  # copy
    requires_grad: bool
    gradient: Tensor | None


class Snapshot:
    """All that a model's own code may change in it: attributes, containers, tensors, modes, and the random generators.

    Args:
        model: model, on any device.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._attributes = {module: dict(vars(module)) for module in model.modules()}
        self._contents: dict[int, tuple[Any, Any]] = {}  # containers with what they held
        self._tensors: dict[int, _Kept] = {}
        for module in self._attributes:
            self._keep(vars(module), 0)
        self._random = RandomStates()

    def _keep(self, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            self._keep_tensor(value)
        elif depth <= MAX_DEPTH and id(value) not in self._contents:
            if isinstance(value, list | dict | set | deque):
                self._contents[id(value)] = value, copy.copy(value)
            for each in _inside(value):
                self._keep(each, depth + 1)

    def _keep_tensor(self, tensor: Tensor) -> None:
        if is_lazy(tensor) or id(tensor) in self._tensors:
            return
        data, gradient = tensor.detach(), tensor.grad if tensor.is_leaf else None
        self._tensors[id(tensor)] = _Kept(tensor, data, data.clone(), tensor.requires_grad, gradient)

    def restore(self, **further: object) -> None:
        """Put everything back, and set `further` attributes of the model."""
        for module, attributes in self._attributes.items():
            vars(module).clear()
            vars(module).update(attributes)
        for container, content in self._contents.values():
            container.clear()
            container.extend(content) if isinstance(container, list | deque) else container.update(content)
        for kept in self._tensors.values():
            _restore_tensor(kept)
        vars(self.model).update(further)
        self._random.restore()

    def changes(self) -> dict[Place, Any]:
        """Describe each attribute, parameter and buffer that is not as it was, by its place."""
        found: dict[Place, Any] = {}
        for path, module in self.model.named_modules():
            before = self._before(module)
            for name, value in _attributes_of(module).items():
                if not matches(describe(value, Tensor.detach), before.get(name), tolerance=0.0):
                    found[path, name] = describe(value, lambda tensor: tensor.detach().clone())
        return found

    def is_in_place(self, place: Place) -> bool:
        """Tell whether what is at a place is the same tensor as before, with other values."""
        path, name = place
        module = self.model.get_submodule(path)
        value = _attributes_of(module)[name]
        return isinstance(value, Tensor) and any(value is held.get(name) for held in self._held(module))

    def _held(self, module: nn.Module) -> list[dict[str, Any]]:
        """Return a module's attributes, parameters and buffers as they were."""
        attributes = self._attributes.get(module, {})
        stores = [attributes[kind] for kind in ("_parameters", "_buffers") if kind in attributes]
        return [attributes, *(self._contents[id(store)][1] for store in stores)]

    def _before(self, module: nn.Module) -> dict[str, Any]:
        """Describe a module's attributes, parameters and buffers as they were."""
        return {
            name: describe(value, self._value, self._content)
            for held in self._held(module)
            for name, value in held.items()
        }

    def _value(self, tensor: Tensor) -> Tensor:
        kept = self._tensors.get(id(tensor))
        return tensor.detach() if kept is None else kept.value

    def _content(self, container: Any) -> Any:
        return self._contents[id(container)][1] if id(container) in self._contents else container


@contextmanager
def unchanged(model: nn.Module) -> Iterator[Snapshot]:
    """Leave a model, on exit, as it was on entry, to the bit; also the state of the random generators."""
    snapshot = Snapshot(model)
    try:
        yield snapshot
    finally:
        snapshot.restore()


def describe(
    value: Any,
    tensor_value: Callable[[Tensor], Tensor],
    content: Callable[[Any], Any] = lambda each: each,
    depth: int = 0,
) -> Any:
    """Describe a value for comparison: tensors, and texts of everything else, in lists and dictionaries.

    Args:
        value: value of any type.
        tensor_value: function that returns what to compare of a tensor.
        content: function that returns what to take as the content of a container.
        depth: number of containers around the value.
    """
    if isinstance(value, Tensor):
        return None if is_lazy(value) else tensor_value(value)
    if isinstance(value, fx.Proxy) or depth > MAX_DEPTH:
        return type(value).__name__
    if isinstance(value, list | tuple | deque):
        return [describe(each, tensor_value, content, depth + 1) for each in content(value)]
    if isinstance(value, dict) or _is_plain_object(value):
        items = content(value if isinstance(value, dict) else vars(value)).items()
        return {str(key): describe(each, tensor_value, content, depth + 1) for key, each in items}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, content(value)))
    is_value = isinstance(value, int | float | complex | str | bytes) or value is None
    return repr(value) if is_value else type(value).__name__  # as text, nan is itself


def matches(left: Any, right: Any, *, tolerance: float = TOLERANCE) -> bool:
    """Compare two descriptions, or nested lists of tensors."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return _tensors_match(left, right, tolerance)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(
            matches(*pair, tolerance=tolerance) for pair in zip(left, right, strict=True)
        )
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(matches(left[key], right[key], tolerance=tolerance) for key in left)
    return type(left) is type(right) and bool(left == right)


def _tensors_match(left: Tensor, right: Tensor, tolerance: float) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype or left.device != right.device:
        return False
    if left.is_meta or torch.equal(left, right):
        return True
    if not left.is_floating_point() and not left.is_complex():
        return False
    if tolerance == 0:
        return torch.allclose(left, right, rtol=0.0, atol=0.0, equal_nan=True)
    finite = right.detach().abs().nan_to_num(0.0, 0.0, 0.0)
    scale = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(left, right, rtol=tolerance, atol=tolerance * (scale + LEAST), equal_nan=True)


def random_states() -> tuple[object, ...]:
    """Return the states of the random generators that a network's Python code may draw from."""
    state = numpy.random.get_state(legacy=False)["state"]
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), state["key"].tobytes(), state["pos"]


def _attributes_of(module: nn.Module) -> dict[str, Any]:
    """Return a module's own attributes, parameters and buffers."""
    own = {name: value for name, value in vars(module).items() if name not in _OTHER and not name.startswith(CONSTANT)}
    return {**own, **module._parameters, **module._buffers}


def _inside(value: Any) -> list[Any]:
    """List what a container or a plain object holds."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set | deque):
        return list(value)
    return [vars(value)] if _is_plain_object(value) else []


def _is_plain_object(value: Any) -> bool:
    """Tell whether a value is an object of a Python class, such as a running average."""
    is_opaque = isinstance(value, nn.Module | type | ModuleType | fx.Proxy) or callable(value)
    return hasattr(value, "__dict__") and not is_opaque


class RandomStates:
    """The states of all random generators."""

    def __init__(self) -> None:
        self.cpu, self.python, self.numpy = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
        is_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self.devices = torch.cuda.get_rng_state_all() if is_used else []

    def restore(self) -> None:
        """Put all states back."""
        torch.set_rng_state(self.cpu)
        random.setstate(self.python)
        numpy.random.set_state(self.numpy)
        if self.devices:
            torch.cuda.set_rng_state_all(self.devices)


def _restore_tensor(kept: _Kept) -> None:
    tensor = kept.tensor
    if tensor.data_ptr() != kept.data.data_ptr() or tensor.shape != kept.data.shape:
        tensor.data = kept.data
    if not _tensors_match(tensor.detach(), kept.value, 0.0):
        with torch.no_grad():
            tensor.detach().copy_(kept.value)
    if tensor.is_leaf and tensor.requires_grad != kept.requires_grad:
        tensor.requires_grad_(kept.requires_grad)
    if tensor.is_leaf and tensor.grad is not kept.gradient:
        tensor.grad = kept.gradient
