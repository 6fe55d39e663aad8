"""Splits of PyTorch and Hugging Face datasets: what they give, how they train and resume, what they refuse."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, get_worker_info

import lctprune as lct

CONFIG = lct.TrainConfig(epochs=4, batch_size=16, precision="fp32", device="cpu")


class Pairs(Dataset[tuple[Tensor, int]]):
    """Labelled 8x8 patterns, made when they are asked for; counts what is read."""

    def __init__(self, samples: int, *, noisy: bool = False) -> None:
        self.samples, self.noisy, self.read = samples, noisy, 0

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read += 1
        image = torch.full((1, 8, 8), index / self.samples)
        image[0, index % 3] += 1
        if self.noisy:  # as random transforms do, with whatever generator they use
            image += 0.1 * torch.randn(1) + 0.1 * random.random() + 0.1 * float(numpy.random.rand())
        return image, index % 3


class Rows:
    """A table of rows as of Hugging Face's `datasets.Dataset`: no PyTorch class, rows are dicts, read in batches."""

    def __init__(self, samples: int, kind: str | None = None) -> None:
        self.pairs, self.kind, self.read = Pairs(samples), kind, 0

    def with_format(self, kind: str) -> Rows:
        return Rows(len(self.pairs), kind)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | str) -> Any:
        if key == "label":
            return [index % 3 for index in range(len(self))]
        assert isinstance(key, int)
        self.read += 1
        image, label = self.pairs[key]
        return {"image": image if self.kind == "torch" else image.tolist(), "label": label}

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Stream(IterableDataset[tuple[Tensor, int]]):
    """Labelled patterns one after the other, divided among worker processes."""

    def __init__(self, samples: int | None) -> None:
        self.pairs, self.count = Pairs(samples or 1000), samples

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        worker = get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in itertools.islice(itertools.count(), start, self.count, step):
            yield self.pairs[index % len(self.pairs)]


class ShuffledStream(Stream):
    """A stream that shuffles itself, as Hugging Face's iterable datasets do."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        order = torch.randperm(len(self.pairs), generator=torch.Generator().manual_seed(self.epoch))
        yield from (self.pairs[index] for index in order.tolist())


def stack_rows(rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    images = torch.stack([torch.as_tensor(row["image"]) for row in rows])
    return images, torch.tensor([row["label"] for row in rows])


def data_of(make: Callable[[int], lct.Split]) -> lct.Data:
    return lct.Data(train=make(96), val=make(30), test=make(30), classes=("a", "b", "c"))


MAKERS: dict[str, Callable[[int], lct.Split]] = {
    "map-style": lambda count: lct.Split.from_dataset(Pairs(count)),
    "random transforms": lambda count: lct.Split.from_dataset(Pairs(count, noisy=True)),
    "workers": lambda count: lct.Split.from_dataset(Pairs(count, noisy=True), num_workers=2),
    "rows": lambda count: lct.Split.from_dataset(Rows(count).with_format("torch"), stack_rows),
    "stream": lambda count: lct.Split.from_dataset(Stream(count)),
    "shuffled stream": lambda count: lct.Split.from_dataset(ShuffledStream(count)),
    "endless stream": lambda count: lct.Split.from_dataset(Stream(None), samples=count),
}


def indices_of(batches: Iterator[tuple[Tensor, Tensor]], samples: int) -> list[int]:
    """Return the positions in the dataset of all samples, in the order in which they came."""
    inputs = torch.cat([inputs for inputs, _ in batches])
    return [round(value) for value in ((inputs[:, 0, 3, 0]) * samples).tolist()]


# --- what it gives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["map-style", "rows", "stream", "endless stream"])
def test_batches_hold_every_sample_once_in_order(kind: str) -> None:
    split = MAKERS[kind](10)
    batches = list(split.batches(4))
    assert [len(targets) for _, targets in batches] == [4, 4, 2]
    assert torch.cat([targets for _, targets in batches]).tolist() == [index % 3 for index in range(10)]
    expected = torch.stack([Pairs(1000 if kind == "endless stream" else 10)[index][0] for index in range(10)])
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), expected)


@pytest.mark.parametrize("kind", ["map-style", "rows", "workers", "shuffled stream"])
def test_order_and_random_transforms_depend_on_the_seed_alone(kind: str) -> None:
    first, again = MAKERS[kind](20), MAKERS[kind](20)
    torch.manual_seed(1)
    random.seed(1)
    one = list(first.shuffled(6, seed=5))
    torch.manual_seed(2)
    random.seed(2)
    list(again.shuffled(6, seed=4))  # an earlier pass leaves no trace
    other = list(again.shuffled(6, seed=5))
    assert [len(targets) for _, targets in one] == [6, 6, 6]
    for (inputs, targets), (other_inputs, other_targets) in zip(one, other, strict=True):
        assert torch.equal(inputs, other_inputs)
        assert torch.equal(targets, other_targets)
    assert not torch.equal(one[0][0], next(again.shuffled(6, seed=6))[0])


def test_a_pass_shuffles_and_leaves_out_the_rest_of_the_last_batch() -> None:
    order = indices_of(lct.Split.from_dataset(Pairs(50)).shuffled(8, seed=0), 50)
    assert len(set(order)) == len(order) == 48
    assert order != sorted(order)


def test_global_generators_are_left_alone() -> None:
    split = MAKERS["random transforms"](12)
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    list(split.shuffled(4, seed=0))
    list(split.batches(4))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert numpy.random.get_state()[1].tolist() == states[2]


def test_random_transforms_differ_within_a_pass() -> None:
    repeated = TensorDataset(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long))

    def noisy(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.randn(len(rows), 1), torch.stack([target for _, target in rows])

    first, second = (inputs for inputs, _ in lct.Split.from_dataset(repeated, noisy).batches(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("count", [20, 21])
def test_a_stream_divided_among_workers_gives_each_sample_once(count: int) -> None:
    split = lct.Split.from_dataset(Stream(count), num_workers=2)
    assert sorted(indices_of(split.batches(4), count)) == list(range(count))


def test_a_stream_with_a_generator_of_its_own_is_shuffled_by_the_seed() -> None:
    class Drawn(IterableDataset[tuple[Tensor, int]]):
        generator = torch.Generator()

        def __iter__(self) -> Iterator[tuple[Tensor, int]]:
            for value in torch.rand(8, generator=self.generator):
                yield value[None], 0

    split = lct.Split.from_dataset(Drawn(), samples=8)
    first, again, other = (torch.cat([x for x, _ in split.shuffled(4, seed=seed)]) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_numbers_of_python_and_numpy_become_those_of_networks() -> None:
    samples = [(numpy.ones(3), numpy.int32(1)), (numpy.ones(3), numpy.int32(0))]
    inputs, targets = next(lct.Split.from_dataset(samples).batches(2))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    split = lct.Split.from_dataset([([1.0, 2.0], 0.5)], lambda rows: (torch.ones(1, 2), torch.tensor([0.5])))
    assert split.targets.is_floating_point()


# --- targets and number of samples -----------------------------------------------------------------------------------


def test_targets_are_collected_by_one_pass_and_only_when_asked_for() -> None:
    dataset = Pairs(30)
    split = lct.Split.from_dataset(dataset)
    assert (dataset.read, split.samples) == (1, 30)
    assert split.targets.tolist() == [index % 3 for index in range(30)]
    assert split.targets.dtype == torch.int64
    assert dataset.read == 31


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize("convert", [list, numpy.array, torch.tensor])
def test_targets_that_a_dataset_knows_cost_no_pass(name: str, convert: Callable[[list[int]], Any]) -> None:
    dataset = Pairs(30)
    setattr(dataset, name, convert([index % 3 for index in range(30)]))
    assert lct.Split.from_dataset(dataset).targets.tolist() == [index % 3 for index in range(30)]
    assert dataset.read == 1


@pytest.mark.parametrize("known", [["a"] * 30, [2] * 30, [0] * 7, 5, [0.0] * 30], ids=str)
def test_an_attribute_that_is_not_the_targets_is_not_taken_for_them(known: object) -> None:
    dataset = Pairs(30)
    dataset.targets = known  # type: ignore[attr-defined]
    assert lct.Split.from_dataset(dataset).targets.tolist() == [index % 3 for index in range(30)]


def test_targets_can_be_given() -> None:
    rows = Rows(30)
    split = lct.Split.from_dataset(rows, stack_rows, targets=rows["label"])
    assert (split.samples, split.targets.tolist()) == (30, rows["label"])
    assert rows.read == 1
    assert lct.Split.from_dataset(Stream(9), targets=[0, 1, 2] * 3).samples == 9


def test_streams_are_counted_unless_their_length_is_known() -> None:
    assert lct.Split.from_dataset(Stream(21)).samples == 21
    assert lct.Split.from_dataset(Stream(None), samples=40).samples == 40
    assert lct.Split.from_dataset(Stream(None), samples=40).targets.dtype == torch.int64

    class Long(Stream):
        def __len__(self) -> int:
            return 10**9

    assert lct.Split.from_dataset(Long(None)).samples == 10**9


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(MAKERS))
def test_training_resumes_to_the_bit(
    kind: str, make_network: Callable[..., lct.LocalCriticNetwork], tmp_path: Path
) -> None:
    data = data_of(MAKERS[kind])
    whole = lct.train(make_network(), data, CONFIG, run_dir=tmp_path / "whole")
    steps = lct.train_steps(
        network := make_network(), data, lct.open_run(network, data, CONFIG, run_dir=tmp_path / "cut")
    )
    for progress in steps:
        if progress.epoch == 3 and progress.step == 2:
            break
    steps.close()
    network = make_network(seed=9)  # whose weights come from the checkpoint
    resumed = lct.train(network, data_of(MAKERS[kind]), CONFIG, run_dir=tmp_path / "cut", resume=True)
    checkpoints = [load_file(run.path / "checkpoint.safetensors") for run in (whole, resumed)]
    assert checkpoints[0].keys() == checkpoints[1].keys()
    for name, tensor in checkpoints[0].items():
        assert torch.equal(tensor, checkpoints[1][name]), name
    candidates = lct.evaluate(network, data.test, data.example, latency_repeats=0)
    assert len(candidates) == 3


def test_an_in_memory_dataset_trains_as_its_tensors_do(
    make_network: Callable[..., lct.LocalCriticNetwork], data: lct.Data
) -> None:
    pairs = [(inputs[0], int(targets)) for inputs, targets in data.val.batches(1)]
    network = make_network()
    expected = lct.evaluate(network, data.val, data.example, latency_repeats=0)
    found = lct.evaluate(network, lct.Split.from_dataset(pairs), data.example, latency_repeats=0)
    assert [each.accuracy for each in found] == [each.accuracy for each in expected]
    assert [each.loss for each in found] == pytest.approx([each.loss for each in expected])


# --- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "facts"),
    [
        (Rows(4), ("dict of image, label", "collate=")),
        ([torch.zeros(2)] * 4, ("Tensor", "collate=")),
        ([(object(), 0)] * 4, ("object", "collate=")),
        ([({"ids": torch.zeros(2)}, 0)] * 4, ("tuple of (dict, int)", "collate=")),
        ([(torch.zeros(2), "cat")] * 4, ("tuple of (Tensor, str)", "collate=")),
        ([], ("list", "empty")),
        (iter([(torch.zeros(2), 0)]), ("list_iterator", "IterableDataset")),
    ],
    ids=["rows", "no pair", "no tensor", "dict inputs", "names", "empty", "iterator"],
)
def test_samples_that_make_no_batch_are_refused_at_once(dataset: object, facts: tuple[str, ...]) -> None:
    with pytest.raises(lct.DataError) as caught:
        lct.Split.from_dataset(dataset)
    for fact in facts:
        assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("batch", "fact"),
    [
        ({"x": torch.zeros(1)}, "dict of x"),
        ((torch.zeros(1, 2), [0]), "(Tensor, list)"),
        ((torch.zeros(3, 2), torch.zeros(1)), r"[3, 2] and targets of [1]"),
    ],
    ids=["dict", "list", "lengths"],
)
def test_a_collate_that_makes_no_batch_is_refused_at_once(batch: object, fact: str) -> None:
    with pytest.raises(lct.DataError, match="collate") as caught:
        lct.Split.from_dataset(Rows(4), lambda rows: batch)
    assert fact in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_of_different_shapes_are_named_in_one_line(num_workers: int) -> None:
    split = lct.Split.from_dataset([(torch.zeros(2), 0), (torch.zeros(3), 1)], targets=[0, 1], num_workers=num_workers)
    with pytest.raises(lct.DataError, match=r"collate=") as caught:
        list(split.batches(2))
    assert "[2]" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_targets_and_samples_that_do_not_fit_are_refused() -> None:
    with pytest.raises(lct.DataError, match=r"5 targets .* 4 samples"):
        lct.Split.from_dataset(Pairs(4), targets=[0] * 5)
    with pytest.raises(lct.DataError, match=r"float32.*int64"):
        lct.Split.from_dataset(Pairs(4), targets=[0.5] * 4)
    with pytest.raises(lct.DataError, match="samples is 4; it is for iterable"):
        lct.Split.from_dataset(Pairs(4), samples=4)
    with pytest.raises(lct.DataError, match="samples is 0"):
        lct.Split.from_dataset(Stream(4), samples=0)


def test_a_stream_shorter_than_stated_is_refused() -> None:
    split = lct.Split.from_dataset(Stream(20), samples=30)
    with pytest.raises(lct.DataError, match=r"ended after 20 of 30 samples"):
        list(split.batches(8))
    with pytest.raises(lct.DataError, match=r"5 batches of 4.*30 samples.*7"):
        list(split.shuffled(4, seed=0))
