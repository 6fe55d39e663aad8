"""Take a network out of what it is wrapped in: parallel, compiled, averaged or checkpointed modules."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
# where torch.compile and activation checkpointing keep the module, whose classes are slow to import
_INNER = ("_orig_mod", "_checkpoint_wrapped_module")


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the plain network, without wrappers around it or around modules inside; the given one stays as it is.

    Modules that contain a wrapper are replaced by twins, which share all parameters, buffers and other modules. A plain
    network is returned itself.
    """
    return _plain(network, {})


def _plain(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    inner = module
    while (content := _content(inner)) is not None:
        inner = content
    if id(inner) not in known:
        known[id(inner)] = inner  # before its children, should one of them contain it
        children = {name: None if child is None else _plain(child, known) for name, child in inner._modules.items()}
        is_compiled = inner._compiled_call_impl is not None  # by its method `compile`
        if is_compiled or any(child is not inner._modules[name] for name, child in children.items()):
            known[id(inner)] = _twin(inner, children)
    return known[id(inner)]


def _content(module: nn.Module) -> nn.Module | None:
    """Return the module that another one wraps; None if it is no wrapper."""
    if isinstance(module, _PARALLEL):
        return module.module
    return next((module._modules[name] for name in _INNER if name in module._modules), None)


def _twin(module: nn.Module, children: dict[str, nn.Module | None]) -> nn.Module:
    """Make a module with the same attributes, but other children, that runs uncompiled."""
    twin = type(module).__new__(type(module))
    vars(twin).update(vars(module), _modules=children, _compiled_call_impl=None)
    return twin
