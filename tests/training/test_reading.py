"""What surrounds steps on an accelerator, as far as the CPU can show it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import lctprune as lct
from lctprune.losses import default_loss
from lctprune.measure.counting import Counting
from lctprune.training.accelerator import LONG, _allowing_tf32, searching_algorithms, tuned_for
from lctprune.training.distributed.pipeline import Pipeline
from lctprune.training.group_trainer import step_settings
from lctprune.training.reading import measured
from lctprune.utils.modules import full_precision, moved, training_layout

METHODS = ("local-critic", "joint", "backprop")
WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item"}  # operations whose result the host needs


class NoWaiting(TorchDispatchMode):
    """Refuse what would make the host wait for a device: numbers that it reads, and shapes that depend on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        is_mask = name == "index" and any(each is not None and each.dtype == torch.bool for each in args[1])
        assert name not in WAITS, f"{name} reads a value"
        assert not is_mask, "the shape of a selection depends on values"
        return func(*args, **(kwargs or {}))


BASE: dict[str, Any] = {"device": "cpu", "epochs": 2, "precision": "bf16", "method": "local-critic"}
FP16 = {"precision": "fp16"}
OPTIONS: list[dict[str, Any]] = [  # on top of Muon and these
    *({"method": method, "optimizer": each} for method in METHODS for each in ("muon", "sgd", "adamw")),
    *(FP16 | {"optimizer": each} for each in ("muon", "sgd", "adamw")),
    *(FP16 | {"optimizer": "muon", "clip_grad_norm": 1.0, "accumulate": 2, "ema": 0.9},),
    *({"ema": 0.9}, {"clip_grad_norm": 0.1}, {"accumulate": 2}, {"mixup": 0.4}, {"cutmix": 1.0}, {"blocks": 2}),
    *({"matching": 1, "distill": 0}, {"critic_optimizer": "adam"}, {"critic_period": 2}, {"freeze_main": True}),
    *({"batch_norm": "keep"}, {"recompute": "on"}, {"schedule": "step", "label_smoothing": 0.0}),
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda each: " ".join(f"{key}={value}" for key, value in each.items()))
def test_no_step_reads_a_value(
    options: dict[str, Any], make_network: Callable[..., lct.LocalCriticNetwork], data: lct.Data
) -> None:
    network = make_network()
    if options.get("method") == "backprop":
        network = lct.LocalCriticNetwork([torch.nn.Sequential(*network.groups)])
    config = lct.TrainConfig(**{**BASE, **options}).resolved()
    count = len(network.groups)
    loss = default_loss(data.train.targets, label_smoothing=config.label_smoothing)
    stage = Pipeline(None, groups=count, blocks=config.blocks).stage(network, [range(count)], config, loss)
    stage.train_mode()
    batches = [*data.train.shuffled(24, seed=0)]
    waits = nullcontext() if config.recompute != "off" else NoWaiting()  # its first step looks at the memory it takes
    for index, (inputs, targets) in enumerate(batches):
        with waits, config.autocast():
            losses = stage.step(inputs, targets, step_settings(index, 2 * len(batches), config))
            means = measured(losses, Counting().fraction(targets))
        waits = NoWaiting()
    assert len(batches) > 2
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
    for steps, searches in ((LONG, True), (LONG - 1, False)):
        with tuned_for("cuda", steps):  # sets what needs no card
            assert now()[:3] == (searches, "tf32", True)
        assert now() == before


def test_full_precision_keeps_the_other_settings_of_cudnn() -> None:
    cudnn = torch.backends.cudnn
    assert cudnn.allow_tf32
    with searching_algorithms(is_on=True), full_precision("cuda"):
        assert (cudnn.allow_tf32, cudnn.benchmark, cudnn.enabled) == (False, True, True)
    with full_precision("cpu"):
        assert (cudnn.allow_tf32, cudnn.benchmark) == (True, False)


def test_a_layout_that_makes_pytorch_crash_is_avoided(image_folder: Path, tmp_path: Path) -> None:
    """The backward pass of a strided 1x1 convolution of 3 channels writes past its memory where channels come last."""
    first, last = nn.Conv2d(3, 16, 1, stride=2), nn.Conv2d(16, 32, 3)
    assert training_layout(nn.Sequential(first, last), "cpu") == torch.contiguous_format
    assert moved(nn.Sequential(first, last), "cpu")[1].weight.is_contiguous()
    assert moved(last, "cpu").weight.is_contiguous(memory_format=torch.channels_last)
    data = lct.load_data(lct.DataConfig(name=str(image_folder)))
    model = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, data.num_outputs))
    lct.train(lct.LocalCriticNetwork([model]), data, lct.TrainConfig(epochs=2), run_dir=tmp_path / "run")
