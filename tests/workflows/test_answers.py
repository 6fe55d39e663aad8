"""The answers that the report shows, against loops over single samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.metrics import confusion_matrix as scikit_confusion

import lctprune as lct
from lctprune.measure.reliability import confusion_matrix, reliability
from lctprune.workflows.answers import MOST_PICTURES, read_answers
from lctprune.workflows.deployment import measure_run
from lctprune.workflows.loading import LoadedRun


def singly(network: torch.nn.Module, split: lct.Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the targets and outputs of a split, one sample at a time."""
    with torch.no_grad():
        rows = [(target, network(image)) for image, target in split.batches(1)]
    return torch.cat([target for target, _ in rows]), torch.cat([output for _, output in rows])


@pytest.mark.parametrize("split", ["val", "test"])
def test_answers_are_those_of_the_network(trained: lct.Run, split: str) -> None:
    loaded = LoadedRun(trained)
    candidates = measure_run(trained, loaded=loaded)
    answers = read_answers(loaded, candidates, 1, split=split)  # type: ignore[arg-type]
    targets, outputs = singly(lct.load_network(trained).subnetwork(1), getattr(trained.load_data(), split))
    found = answers.network
    assert found is not None
    assert found.split == {"val": "validation", "test": "test"}[split]
    assert found.targets.tolist() == targets.tolist()
    assert found.answers.tolist() == outputs.argmax(1).tolist()
    torch.testing.assert_close(found.confidence, outputs.softmax(1).amax(1))
    if split == "val":
        assert float((found.targets == found.answers).double().mean()) == candidates[1].accuracy


def test_pictures_are_those_with_the_most_different_answers(trained: lct.Run) -> None:
    loaded = LoadedRun(trained)
    pictures = read_answers(loaded, measure_run(trained, loaded=loaded), 0).pictures
    network, val = lct.load_network(trained), trained.load_data().val
    answers = torch.stack([singly(network.subnetwork(exit), val)[1].argmax(1) for exit in range(3)])
    different = [len(set(column)) for column in answers.T.tolist()]
    expected = sorted(range(len(different)), key=lambda sample: -different[sample])[:MOST_PICTURES]
    images = torch.cat([image for image, _ in val.batches(1)])
    assert [list(picture.answers.values()) for picture in pictures] == answers.T[expected].tolist()
    for picture, sample in zip(pictures, expected, strict=True):
        assert torch.equal(picture.image, images[sample])


def test_predictions_of_a_regression_are_in_its_units(table_run: Callable[..., lct.Run]) -> None:
    run = table_run(task="regression")
    loaded = LoadedRun(run)
    found = read_answers(loaded, measure_run(run, loaded=loaded), 1, split="test").network
    assert found is not None
    assert found.confidence is None
    rows = [float(line.split(",")[-1]) for line in Path(str(run.config.data.config.name)).read_text().split()[1:]]  # type: ignore[union-attr]
    assert all(min(abs(value - row) for row in rows) < 1e-5 for value in found.targets.tolist())
    errors = ((found.targets - found.answers) ** 2).sum() / ((found.targets - found.targets.mean()) ** 2).sum()
    score = lct.evaluate(lct.load_network(run), run.load_data().test, run.load_data().example, latency_repeats=0)[1]
    assert float(1 - errors) == pytest.approx(score.accuracy, abs=1e-5)


def test_reliability_by_hand() -> None:
    confidence = torch.tensor([0.05, 0.1, 0.95, 1.0, 0.91, 0.9])
    found = reliability(torch.tensor([False, True, True, True, False, True]), confidence)
    assert found.samples == [2, 0, 0, 0, 0, 0, 0, 0, 1, 3]  # an edge is in the lower bin
    assert found.accuracy[0] == 0.5
    assert found.accuracy[1] is None
    assert found.accuracy[9] == pytest.approx(2 / 3)
    assert found.confidence[9] == pytest.approx((0.95 + 1 + 0.91) / 3)
    by_hand = (2 * abs(0.5 - 0.075) + 1 * abs(1 - 0.9) + 3 * abs(2 / 3 - 2.86 / 3)) / 6
    assert found.error == pytest.approx(by_hand, abs=1e-6)


def test_the_confusion_matrix_is_that_of_scikit_learn() -> None:
    targets, answers = torch.randint(0, 5, (2, 300))
    expected = scikit_confusion(targets, answers, labels=range(5))
    assert confusion_matrix(targets, answers, 5).tolist() == expected.tolist()
