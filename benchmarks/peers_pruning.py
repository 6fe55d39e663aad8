"""Pruning by Torch-Pruning, for `peers.py`."""

from __future__ import annotations

from torch import Tensor, nn

import lctprune as lct
from lctprune.models.images import LEAST_WIDTH_OF_LARGE

VARIANTS = ("l1-uniform", "l1-global", "bn-uniform", "bn-global")  # importance, and where channels are compared
PRUNING_STEPS = 200  # from no channel to almost all of them: how closely a budget is met


def pruned_to(budget: int, model: nn.Module, example: Tensor, variant: str) -> nn.Module:
    """Take the least important channels out of the model, in place, until it has at most `budget` MACs."""
    import torch_pruning  # type: ignore[import-not-found, import-untyped, unused-ignore]  # an optional dependency

    importance, scope = variant.split("-")
    pruner = torch_pruning.pruner.BasePruner(
        model.eval(),
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=1)
        if importance == "l1"
        else torch_pruning.importance.BNScaleImportance(),
        global_pruning=scope == "global",
        pruning_ratio=0.98,
        max_pruning_ratio=0.9,
        iterative_steps=PRUNING_STEPS,
        ignored_layers=[module for module in model.modules() if isinstance(module, nn.Linear)],
    )
    for _ in range(PRUNING_STEPS):
        pruner.step()
        if lct.count_flops(model, example) // 2 <= budget:
            return model
    raise SystemExit(f"{variant} pruning does not get from {lct.count_flops(model, example) // 2} to {budget} MACs")


def without_crash(model: nn.Module) -> nn.Module:
    """Replace, in place, strided 1x1 convolutions of few channels: they pick every other position first instead.

    The model computes what it did. In PyTorch 2.14 the backward pass of such convolutions corrupts memory where tensors
    are channels last.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, nn.Conv2d) or child.kernel_size != (1, 1) or child.stride == (1, 1):
                continue
            if child.in_channels < LEAST_WIDTH_OF_LARGE:
                picking = nn.AvgPool2d(1, child.stride[0])
                child.stride = (1, 1)
                setattr(module, name, nn.Sequential(picking, child))
    return model
