"""Few samples: a rest of one sample, fewer than a batch, one of a class, one class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from equality import same
from torch import Tensor, nn

import lctprune as lct
from lctprune.data.splits import Batch
from lctprune.measure.scores import even_batch_size, score_exits

CONFIG = lct.TrainConfig(epochs=1, batch_size=8, precision="fp32")


def network(*, track: bool = True) -> lct.LocalCriticNetwork:
    """Pooling, and then batch norm of vectors."""
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    last = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=track), nn.Linear(4, 2))
    critic = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=track), nn.Linear(4, 2))
    return lct.LocalCriticNetwork([pooled, last], [critic])


def split(samples: int, seed: int = 0) -> lct.TensorSplit:
    generator = torch.Generator().manual_seed(seed)
    return lct.TensorSplit(torch.randn(samples, 1, 6, 6, generator=generator), torch.arange(samples) % 2)


def data(train: lct.Split, val: lct.Split | None = None) -> lct.Data:
    val = val or split(9, 1)
    return lct.Data(train=train, val=val, test=val, classes=("a", "b"))


class Ragged(lct.Split):
    """Yields all samples, also those that do not fill a batch."""

    def __init__(self, inner: lct.TensorSplit) -> None:
        self.inner = inner

    @property
    def targets(self) -> Tensor:
        return self.inner.targets

    def batches(self, batch_size: int) -> Iterator[Batch]:
        return self.inner.batches(batch_size)

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        order = torch.randperm(len(self.targets), generator=torch.Generator().manual_seed(seed))
        for indices in order.split(batch_size):
            yield self.inner.inputs[indices], self.inner.targets[indices]


class Whole(Ragged):
    """Leaves out a rest of one sample itself."""

    def shuffled(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        return (batch for batch in super().shuffled(batch_size, seed=seed) if len(batch[1]) > 1)


@pytest.mark.parametrize("samples", [17, 5, 2])
def test_batch_norm_is_trained_on_any_number_of_samples(samples: int, tmp_path: Path) -> None:
    assert lct.train(network(), data(split(samples)), CONFIG, run_dir=tmp_path / "run").epochs_done == 1


def test_a_rest_of_one_sample_is_left_out(tmp_path: Path) -> None:
    states = []
    for kind in (Ragged, Whole):
        trained = network()
        lct.train(trained, data(kind(split(17))), CONFIG, run_dir=tmp_path / kind.__name__)
        states.append(trained.state_dict())
    assert same(*states)


@pytest.mark.parametrize(("samples", "batch_size", "reason"), [(9, 1, "batch_size is 1"), (1, 8, "a single sample")])
def test_batch_norm_of_single_samples_is_refused(samples: int, batch_size: int, reason: str, tmp_path: Path) -> None:
    config = lct.TrainConfig(epochs=1, batch_size=batch_size, precision="fp32")
    with pytest.raises(lct.ConfigError, match=rf"{reason}, and batch norm needs at least 2 values"):
        lct.train(network(), data(split(samples)), config, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_single_samples_without_batch_norm_are_trained_on(tmp_path: Path) -> None:
    config = lct.TrainConfig(epochs=1, batch_size=1, precision="fp32")
    plain = lct.LocalCriticNetwork([nn.Sequential(nn.Flatten(), nn.Linear(36, 2))])
    assert lct.train(plain, data(split(5)), config, run_dir=tmp_path / "run").epochs_done == 1


@pytest.mark.parametrize("samples", [9, 513, 257, 2])
def test_no_split_is_measured_with_a_last_batch_of_one_sample(samples: int, tmp_path: Path) -> None:
    val = split(samples, 1)
    for most in (8, 256, 512):
        size = even_batch_size(val, most)
        assert size <= most
        assert samples % size != 1
    without_statistics = network(track=False)
    run = lct.train(without_statistics, data(split(16), val), CONFIG, run_dir=tmp_path / "run")
    assert len(run.metrics) == 1
    assert score_exits(without_statistics, val, batch_size=8).samples == samples


def test_a_class_of_one_sample_is_learnt_from(tmp_path: Path) -> None:
    few = split(16)
    few.targets[:] = 0
    few.targets[3] = 1
    assert lct.train(network(), data(few), CONFIG, run_dir=tmp_path / "run").epochs_done == 1


@pytest.mark.parametrize("outputs", [1, 2])
def test_one_class_is_refused(outputs: int, tmp_path: Path) -> None:
    few = split(16)
    few.targets[:] = 0
    one = lct.LocalCriticNetwork([nn.Sequential(nn.Flatten(), nn.Linear(36, outputs))])
    with pytest.raises(lct.DataError, match="every target of the training split is of class 0"):
        lct.train(one, data(few, few), CONFIG, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_ignored_targets_are_refused(tmp_path: Path) -> None:
    few = split(16)
    few.targets[:] = -100
    with pytest.raises(lct.DataError, match="every target of the training split is one that the loss ignores"):
        lct.train(network(), data(few), CONFIG, run_dir=tmp_path / "run")


def test_partly_labelled_data_is_learnt_from(tmp_path: Path) -> None:
    few = split(16)
    few.targets[4:] = -100  # some batches without any
    config = lct.TrainConfig(epochs=1, batch_size=2, precision="fp32", lr=1e-9, optimizer="sgd", label_smoothing=0)
    trained = network().eval()
    labelled = few.inputs[:4]
    run = lct.train(trained, data(few), config, run_dir=tmp_path / "run")
    assert float(run.metrics[0]["exit1_train_loss"]) > 0
    trained.eval()
    candidates = lct.evaluate(trained, few, labelled[:1], latency_repeats=0)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(trained(labelled), few.targets[:4]).item()
    assert candidates[-1].loss == pytest.approx(expected, rel=1e-5)
    assert candidates[-1].samples == 4


@pytest.mark.parametrize(("ignored", "own"), [(-100, False), (-100, True), (-1, True), (255, True)])
def test_the_training_loss_is_a_mean_over_targets_that_count(ignored: int, own: bool, tmp_path: Path) -> None:
    few = split(16)
    few.targets[:] = torch.arange(16) % 2
    few.targets[4:] = ignored  # some batches without any
    loss = nn.CrossEntropyLoss(reduction="none", ignore_index=ignored) if own else None
    still = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(still(few.inputs[:4]), few.targets[:4]).item()
    config = lct.TrainConfig(epochs=1, batch_size=2, precision="fp32", lr=1e-12, optimizer="sgd", label_smoothing=0)
    run = lct.train(lct.LocalCriticNetwork([still]), data(few, few), config, run_dir=tmp_path / "run", loss=loss)
    assert float(run.metrics[0]["exit0_train_loss"]) == pytest.approx(expected, rel=1e-4)


def test_class_numbers_as_floats_are_named(tmp_path: Path) -> None:
    few = split(16)
    whole = lct.TensorSplit(few.inputs, few.targets.double())
    for outputs, told in (
        (1, r"whole numbers from 0 to 1.*targets\.long\(\)"),
        (2, r"cannot be scored.*targets\.long\(\)"),
    ):
        flat = lct.LocalCriticNetwork([nn.Sequential(nn.Flatten(), nn.Linear(36, outputs))])
        with pytest.raises((lct.DataError, lct.ConfigError), match=told):
            lct.train(flat, data(whole, whole), CONFIG, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
