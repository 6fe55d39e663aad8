"""What surrounds steps on an accelerator, as far as the CPU can show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import lctprune as lct
from lctprune.measure.counting import Counting
from lctprune.training.accelerator import _allowing_tf32, tuned_for
from lctprune.training.distributed.pipeline import Pipeline
from lctprune.training.group_trainer import step_settings
from lctprune.training.reading import measured
from lctprune.utils.modules import moved, training_layout

WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item"}  # operations whose result the host needs


class NoWaiting(TorchDispatchMode):
    """Refuse what would make the host wait for a device: numbers that it reads, and shapes that depend on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        is_mask = name == "index" and any(each is not None and each.dtype == torch.bool for each in args[1])
        assert name not in WAITS, f"{name} reads a value"
        assert not is_mask, "the shape of a selection depends on values"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
@pytest.mark.parametrize("method", ["local-critic", "joint", "backprop"])
def test_no_step_reads_a_value(
    method: str, optimizer: str, make_network: Callable[..., lct.LocalCriticNetwork], data: lct.Data
) -> None:
    network = make_network()
    if method == "backprop":
        network = lct.LocalCriticNetwork([torch.nn.Sequential(*network.groups)])
    given: dict[str, Any] = {"method": method, "optimizer": optimizer}
    config = lct.TrainConfig(**given, device="cpu", precision="bf16").resolved()
    count = len(network.groups)
    count = len(network.groups)
    stage = Pipeline(None, groups=count).stage(network, [range(count)], config, lct.cross_entropy)
    stage.train_mode()
    with NoWaiting(), config.autocast():
        for index, (inputs, targets) in enumerate(data.train.shuffled(48, seed=0)):
            losses = stage.step(inputs, targets, step_settings(index, 2, config))
            means = measured(losses, Counting().fraction(targets))
    assert means.shape == (count + 1,)
    with pytest.raises(AssertionError, match="reads a value"), NoWaiting():
        float(means[0])


def test_tf32_is_allowed_for_a_while_only() -> None:
    matmul = torch.backends.cuda.matmul

    def now() -> tuple[object, ...]:
        return (
            torch.backends.cudnn.benchmark,
            matmul.fp32_precision,
            matmul.allow_tf32,
            torch.get_float32_matmul_precision(),
        )

    before = now()
    seen = []

    @_allowing_tf32()
    def train() -> None:
        seen.append((matmul.allow_tf32, matmul.fp32_precision))
        raise RuntimeError("training failed")

    with pytest.raises(RuntimeError, match="training failed"):
        train()
    assert seen == [(True, "tf32")]
    assert now() == before
    with tuned_for("cpu"):
        assert now() == before


def test_a_layout_that_makes_pytorch_crash_is_avoided(image_folder: Path, tmp_path: Path) -> None:
    """The backward pass of a strided 1x1 convolution of 3 channels writes past its memory where channels come last."""
    first, last = nn.Conv2d(3, 16, 1, stride=2), nn.Conv2d(16, 32, 3)
    assert training_layout(nn.Sequential(first, last), "cpu") == torch.contiguous_format
    assert moved(nn.Sequential(first, last), "cpu")[1].weight.is_contiguous()
    assert moved(last, "cpu").weight.is_contiguous(memory_format=torch.channels_last)
    data = lct.load_data(lct.DataConfig(name=str(image_folder)))
    model = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, data.num_outputs))
    lct.train(lct.LocalCriticNetwork([model]), data, lct.TrainConfig(epochs=2), run_dir=tmp_path / "run")
