"""Notice what a network does beside its output when it runs: what it keeps, counts and hangs on gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lctprune.errors import PartitionError
from lctprune.partition.calling import OneTensor
from lctprune.partition.tracing import BY_HAND


class Watched(OneTensor):
    """A network that is put back into its state after each run.

    Args:
        model: network; see `OneTensor`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.changes = Changes()

    def output(self, x: Tensor) -> Any:
        """Return whatever the network returns, and note what it has changed."""
        before = Attributes(self.model)
        try:
            return super().output(x)
        finally:
            self.changes.names += before.restore()


class Changes:
    """The names of the attributes that a network has changed."""

    def __init__(self) -> None:
        self.names: list[str] = []


class Attributes:
    """Every attribute of a network's modules at one time.

    Args:
        model: network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = [(path, vars(module)) for path, module in model.named_modules()]
        self.attributes = [dict(now) for _, now in self.modules]
        self.contents = [_content(now) for _, now in self.modules]

    def restore(self) -> list[str]:
        """Restore the attributes, and name those that had changed."""
        changed = []
        for (path, now), attributes, content in zip(self.modules, self.attributes, self.contents, strict=True):
            for key in {**attributes, **now}:
                changed += [f"{path}.{name}".lstrip(".") for name in _changes(key, content, now)]
            now.clear()
            now.update(attributes)
            for key, value in attributes.items():
                _refill(value, content[key])
        return changed


def _changes(key: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name the attribute if it has changed; of the buffers, those that have."""
    if key in before and key in now and _alike(before[key], _content(now[key])):
        return []
    if key != "_buffers":
        return [key]
    return [name for name in {**before[key], **now[key]} if before[key].get(name) is not now[key].get(name)]


def _content(value: Any) -> Any:
    """Copy containers, and keep all else as it is."""
    if isinstance(value, dict):
        return {key: _content(each) for key, each in value.items()}
    return [_content(each) for each in value] if isinstance(value, list | tuple | set) else value


def _refill(container: Any, content: Any) -> None:
    """Give a dictionary or a list the elements that it had."""
    if isinstance(container, dict):
        for key in container.keys() - content.keys():
            del container[key]
        container.update({key: each for key, each in content.items() if not isinstance(each, dict | list)})
    elif isinstance(container, list) and not any(isinstance(each, dict | list) for each in content):
        container[:] = content


def _alike(before: Any, now: Any) -> bool:
    if isinstance(before, dict) and isinstance(now, dict):
        return before.keys() == now.keys() and all(_alike(before[key], now[key]) for key in before)
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_alike, before, now))
    return before is now or (isinstance(before, bool | int | float | str) and before == now)


class HooksRefused(TorchFunctionMode):
    """Refuses gradient hooks, which torch.export loses."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ("register_hook", "register_post_accumulate_grad_hook"):
            raise PartitionError(
                f"its forward hangs a hook on a gradient, which layer groups would not call; {BY_HAND}"
            )
        return func(*args, **(kwargs or {}))
