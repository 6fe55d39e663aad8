"""What is held out of uneven classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lctprune.data.held_out import hold_out, stratified
from lctprune.errors import DataError


def test_the_only_sample_of_a_class_stays_in_train() -> None:
    targets = torch.tensor([0] * 20 + [1] * 10 + [2] + [4])  # of class 3 there is none
    kept, held_out = stratified(targets, 0.2, 0)
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(32))
    assert set(targets[kept].tolist()) == {0, 1, 2, 4}
    assert targets[held_out].bincount().tolist() == [4, 2]
    again = stratified(targets, 0.2, 0)
    assert torch.equal(held_out, again[1])
    assert not torch.equal(held_out, stratified(targets, 0.2, 1)[1])


def test_small_classes_have_one_sample_each_held_out() -> None:
    targets = torch.arange(10).repeat(5)  # a tenth of 50 samples is fewer than there are classes
    kept, drawn = hold_out(targets, 0.1, 0)
    assert targets[drawn].bincount().tolist() == [1] * 10
    assert torch.equal(torch.cat([kept, drawn]).sort().values, torch.arange(50))
    many = targets.repeat(4)
    assert torch.equal(hold_out(many, 0.1, 3)[1], stratified(many, 0.1, 3)[1])  # as recorded runs have it


@pytest.mark.parametrize("draw", [stratified, hold_out])
def test_classes_of_one_sample_each_are_refused(draw: Callable[..., object]) -> None:
    with pytest.raises(DataError, match=r"12 samples of 12 classes.*smallest has 1"):
        draw(torch.arange(12), 0.2, 0)
