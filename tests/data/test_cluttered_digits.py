"""Cluttered digits: every digit whole in its picture, new pictures in every pass, and no digit in two splits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import lctprune as lct
from lctprune.data.builtin import dependence, digits
from lctprune.data.cluttered_digits import ClutteredSplit, clutter


@pytest.fixture(scope="module")
def data() -> lct.Data:
    return lct.load_data(lct.DataConfig())


def test_they_are_the_default_and_24_pixels_large(data: lct.Data) -> None:
    assert data.config is not None
    assert data.config.name == "digits-cluttered"
    assert [split.samples for split in (data.train, data.val, data.test)] == [1293, 4 * 144, 4 * 360]
    assert data.example.shape == (1, 1, 24, 24)
    inputs = torch.cat([inputs for inputs, _ in data.train.batches(500)])
    assert inputs.mean().abs() < 1e-4
    assert lct.load_data(replace(data.config, image_size=16)).example.shape == (1, 1, 16, 16)


def test_every_digit_is_whole_in_its_picture() -> None:
    shown = digits(6).test[0][:40]
    for picture, digit in zip(clutter(shown, size=12, seed=3)[..., 0], shown[..., 0], strict=True):
        places = picture.unfold(0, 6, 1).unfold(1, 6, 1)  # [7, 7, 6, 6]
        assert (places >= digit).flatten(2).all(2).any()  # pieces may be brighter
        assert (picture > 0).sum() >= (digit > 0).sum()


def test_a_pass_draws_new_pictures_by_its_seed(data: lct.Data) -> None:
    first, again, other = (next(data.train.shuffled(8, seed=seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert data.config is not None
    fixed = lct.load_data(replace(data.config, augment="none")).train
    (one, labels), (two, others) = (next(fixed.shuffled(1293, seed=seed)) for seed in (1, 2))
    assert torch.equal(one.sum((1, 2, 3)).sort().values, two.sum((1, 2, 3)).sort().values)
    assert torch.equal(labels.bincount(), others.bincount())


def test_no_digit_stands_in_two_splits(data: lct.Data) -> None:
    seen: list[set[bytes]] = []
    for split in (data.train, data.val, data.test):
        assert isinstance(split, ClutteredSplit)
        seen.append({digit.numpy().tobytes() for digit in split.digits})
    assert [len(each) for each in seen] == [1293, 144, 360]
    assert len(set.union(*seen)) == sum(len(each) for each in seen)


def test_it_is_said_that_pictures_of_one_digit_resemble_each_other() -> None:
    assert "4 pictures show each digit" in dependence(lct.DataConfig(name="digits-cluttered"))
    assert dependence(lct.DataConfig(name="digits")) == ""
