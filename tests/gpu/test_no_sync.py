"""Nothing in a step of training waits for the device."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import lctprune as lct
from lctprune.measure.counting import Counting
from lctprune.optim.muon import Muon
from lctprune.training.distributed.pipeline import Pipeline
from lctprune.training.group_trainer import step_settings
from lctprune.training.reading import STEPS_LATE, LossReader, measured
from lctprune.training.stage import Stage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]
MakeNetwork = Callable[..., lct.LocalCriticNetwork]
IMAGES = torch.randint(256, (256, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SPLIT = lct.TensorSplit(
    IMAGES, torch.arange(256) % 3, lct.Normalization((0.5,), (0.25,)), lct.Augmentation(crop=1, flip=True)
)


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Make every operation of PyTorch that waits for the device an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def stage_of(network: lct.LocalCriticNetwork, **settings: object) -> tuple[Stage, lct.TrainConfig]:
    config = lct.TrainConfig(device="cuda", batch_size=16, **settings).resolved()  # type: ignore[arg-type]
    count = len(network.groups)
    loss = functools.partial(lct.cross_entropy, label_smoothing=0.1)
    return Pipeline(None, groups=count, device="cuda", blocks=config.blocks).stage(
        network, [range(count)], config, loss
    ), config


LONG = {"ema": 0.9, "clip_grad_norm": 1.0, "accumulate": 2, "mixup": 0.4, "cutmix": 1.0}


@pytest.mark.parametrize("options", [{}, {"precision": "fp16"}, LONG], ids=["defaults", "fp16", "long trainings"])
@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
@pytest.mark.parametrize("method", ["local-critic", "2 blocks", "joint", "backprop"])
def test_no_step_waits_for_the_device(
    method: str, optimizer: str, options: dict[str, object], make_network: MakeNetwork
) -> None:
    """Neither to get its batch, nor to compute, nor to hand its losses on."""
    network = make_network()
    if method == "backprop":
        network = lct.LocalCriticNetwork([torch.nn.Sequential(*network.groups)])
    chosen = {"blocks": 2} if method == "2 blocks" else {"method": method}
    stage, config = stage_of(network, optimizer=optimizer, **chosen, **options)
    split = SPLIT.on_device("cuda")
    reader, read = LossReader("cuda"), []
    stage.train_mode()

    def take_steps(seed: int) -> int:
        index = -1
        for index, (inputs, targets) in enumerate(stage.batches(split, seed=seed)):
            assert inputs.is_cuda
            assert targets.is_cuda
            with config.resolved().autocast():
                losses = stage.step(inputs, targets, step_settings(index, 32, config.resolved()))
            reader.add(index, measured(losses, Counting().fraction(targets)), (inputs, targets))
            read.extend(reader.ready())
        return index + 1

    count = take_steps(0)  # the first steps load libraries and fill caches
    with no_waiting():
        count += take_steps(1)
    assert len(read) == count - STEPS_LATE
    read.extend(reader.ready(every=True))
    means = torch.stack([each.measured for each in read])
    assert means.device.type == "cpu"
    assert torch.isfinite(means).all()
    assert len(set(means[:, -2].tolist())) == count  # none was read before it was there


def test_images_are_augmented_on_the_device_as_on_the_cpu() -> None:
    there = SPLIT.on_device("cuda")
    for here, moved in zip(SPLIT.shuffled(16, seed=3), there.shuffled(16, seed=3), strict=True):
        assert moved[0].is_cuda
        torch.testing.assert_close(moved[0].cpu(), here[0])
        assert torch.equal(moved[1].cpu(), here[1])


def test_muon_orthogonalises_matrices_together_as_one_by_one() -> None:
    torch.manual_seed(0)
    shapes = [(8, 4, 3, 3), (8, 4, 3, 3), (16, 8, 1, 1), (4, 16, 1, 1)]
    weights = [torch.randn(shape).to(memory_format=torch.channels_last) for shape in shapes]
    gradients = [torch.randn_like(weight) for weight in weights]
    results = []
    for device in ("cpu", "cuda"):
        own = [weight.to(device).clone().requires_grad_() for weight in weights]
        optimizer = Muon(own, [], lr=0.1, momentum=0.9, weight_decay=0.0, dtype=torch.float32)
        for _ in range(2):
            for weight, gradient in zip(own, gradients, strict=True):
                weight.grad = gradient.to(device)
            optimizer.step()
        results.append([weight.detach().cpu() for weight in own])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_is_found_and_explained(make_network: MakeNetwork, tmp_path: Path) -> None:
    inputs = torch.randn(64, 1, 8, 8)
    inputs[40] = torch.nan
    good = lct.TensorSplit(torch.randn(32, 1, 8, 8), torch.arange(32) % 3)

    # a dataset, as the check before training looks into splits in memory
    bad = lct.Split.from_dataset(torch.utils.data.TensorDataset(inputs, torch.arange(64) % 3))
    data = lct.Data(train=bad, val=good, test=good, classes=("a", "b", "c"))
    config = lct.TrainConfig(device="cuda", epochs=1, batch_size=8)
    with pytest.raises(lct.TrainingError, match=r"the inputs of this batch hold nan, in 1 of 8 samples"):
        lct.train(make_network(), data, config, run_dir=tmp_path / "run")


def test_settings_of_cuda_are_put_back(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    backends = torch.backends
    before = (backends.cudnn.benchmark, backends.cuda.matmul.fp32_precision, backends.cuda.matmul.allow_tf32)
    seen = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append((backends.cudnn.benchmark, backends.cuda.matmul.allow_tf32))
        return lct.cross_entropy(output, target)

    config = lct.TrainConfig(device="cuda", epochs=1, batch_size=16, distill=0)
    lct.train(make_network(), data, config, run_dir=tmp_path / "run", loss=loss)
    assert seen[-1] == (False, True)  # so short a training does not search for algorithms
    assert (backends.cudnn.benchmark, backends.cuda.matmul.fp32_precision, backends.cuda.matmul.allow_tf32) == before
