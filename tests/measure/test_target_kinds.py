"""What exits are compared by, for targets and losses of every kind; and targets that a loss ignores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lctprune as lct
from lctprune.measure.loss_trials import ignored_classes, treatment
from lctprune.measure.scores import score_exits

Loss = Callable[[Tensor, Tensor], Tensor]
WIDTHS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.int64)


def bce(output: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(output, target.float(), reduction="none").mean(1)


def smoothed_bce(output: Tensor, target: Tensor) -> Tensor:
    return bce(output, 0.9 * target.float() + 0.05)


def bce_of_probabilities(output: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy(output, target, reduction="none").mean(1)


def focal(output: Tensor, target: Tensor) -> Tensor:
    losses = functional.binary_cross_entropy_with_logits(output, target, reduction="none")
    return (losses * (1 - (-losses).exp()) ** 2).mean(1)


def poisson(output: Tensor, target: Tensor) -> Tensor:
    return functional.poisson_nll_loss(output[:, 0], target.float(), reduction="none")


def huber(output: Tensor, target: Tensor) -> Tensor:
    return functional.smooth_l1_loss(output, target, reduction="none").mean(1)


def soft_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return -(target * output.log_softmax(1)).sum(1)


def ordinal(output: Tensor, target: Tensor) -> Tensor:
    """Ask of each output whether the rank is above it."""
    levels = (torch.arange(output.shape[1], device=target.device) < target[:, None]).float()
    return bce(output, levels)


def wrong_way_round(output: Tensor, target: Tensor) -> Tensor:
    return bce(-output, target)


def masked_bce(output: Tensor, target: Tensor) -> Tensor:
    """Leave out labels that are missing."""
    known = (target == 0) | (target == 1)
    losses = functional.binary_cross_entropy_with_logits(
        output, target.float().where(known, 0.0).reshape(output.shape), reduction="none"
    )
    return losses.where(known.reshape(output.shape), 0.0).flatten(1).mean(1)


def bce_of_one(output: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(output.flatten(), target.float().flatten(), reduction="none")


def hinge(output: Tensor, target: Tensor) -> Tensor:
    return (1 - output * target).clamp(min=0).mean(1)


CLASSES, LABELS = torch.arange(24) % 3, (torch.arange(72).reshape(24, 3) % 5 < 2).float()
SOFT = torch.randn(24, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
GAPS = torch.arange(72).reshape(24, 3) % 7 == 3
NUMBERS = torch.randn(24, 3, generator=torch.Generator().manual_seed(2))
KINDS: dict[str, tuple[Tensor, int, Loss | None, str]] = {
    "class numbers": (CLASSES, 3, None, "accuracy"),
    "weighted classes": (CLASSES, 3, nn.CrossEntropyLoss(torch.rand(3), reduction="none"), "accuracy"),
    "smoothed classes": (CLASSES, 3, nn.CrossEntropyLoss(reduction="none", label_smoothing=0.2), "accuracy"),
    "log-probabilities": (CLASSES, 3, nn.NLLLoss(reduction="none"), "accuracy"),
    "labels": (LABELS, 3, bce, "mAP"),
    "smoothed labels": (LABELS, 3, smoothed_bce, "mAP"),
    "labels by focal loss": (LABELS, 3, focal, "mAP"),
    "integer labels": (LABELS.int(), 3, bce, "mAP"),
    "boolean labels": (LABELS.bool(), 3, bce, "mAP"),
    "one label": (LABELS[:, :1], 1, bce, "mAP"),
    **{
        f"one label as {dtype}, of [n]": (LABELS[:, 0].to(dtype), 1, bce_of_one, "mAP")
        for dtype in (torch.int64, torch.uint8, torch.bool, torch.float32)
    },
    "labels, some -1": (LABELS.masked_fill(GAPS, -1), 3, masked_bce, "mAP"),
    "labels, some nan": (LABELS.masked_fill(GAPS, math.nan), 3, masked_bce, "mAP"),
    "integer labels, some -1": (LABELS.long().masked_fill(GAPS, -1), 3, masked_bce, "mAP"),
    "bytes, some 255": (LABELS.byte().masked_fill(GAPS, 255), 3, masked_bce, "mAP"),
    "one label, some -1, of [n]": (LABELS[:, 0].long().masked_fill(GAPS[:, 0], -1), 1, masked_bce, "mAP"),
    "-1 and 1": (LABELS * 2 - 1, 3, hinge, "loss"),
    "-1, 0 and 1, none left out": (LABELS.masked_fill(GAPS, -1), 3, bce, "loss"),
    "labels, wrong way round": (LABELS, 3, wrong_way_round, "loss"),
    "labels by Huber's loss": (LABELS, 3, huber, "loss"),
    "probabilities": (SOFT, 3, soft_cross_entropy, "accuracy"),
    "probabilities by cross-entropy": (SOFT, 3, lct.cross_entropy, "accuracy"),
    "one-hot classes": (functional.one_hot(CLASSES).double(), 3, soft_cross_entropy, "accuracy"),
    "numbers": (NUMBERS, 3, None, "R2"),
    "numbers by the library's loss": (NUMBERS, 3, lct.mean_squared_error, "R2"),
    "numbers by Huber's loss": (NUMBERS, 3, huber, "loss"),
    "counts": (torch.arange(24) % 7, 1, poisson, "loss"),
    "counts as floats": ((torch.arange(24) % 7).float(), 1, poisson, "loss"),
    "ranks": (torch.arange(24) % 4, 3, ordinal, "loss"),
}


def evaluated(outputs: Tensor, targets: Tensor, loss: Loss | None = None, metric: str = "auto") -> lct.Candidate:
    network = lct.LocalCriticNetwork([nn.Identity()])
    split = lct.TensorSplit(outputs, targets)
    (candidate,) = lct.evaluate(network, split, outputs[:1], loss=loss, metric=metric, latency_repeats=0, batch_size=7)
    return candidate


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_targets_and_the_loss_decide_what_exits_are_compared_by(kind: str) -> None:
    targets, outputs, loss, metric = KINDS[kind]
    given = torch.randn(24, outputs, generator=torch.Generator().manual_seed(0))
    candidate = evaluated(given, targets, loss)
    assert candidate.metric == metric
    if metric == "loss":
        assert candidate.score == candidate.loss
        assert math.isnan(candidate.accuracy)
    else:
        assert candidate.score == candidate.accuracy
    if kind in ("probabilities", "one-hot classes"):
        expected = (given.argmax(1) == targets.argmax(1)).double().mean().item()
        assert candidate.accuracy == pytest.approx(expected)


def test_labels_of_a_network_that_gives_probabilities() -> None:
    assert evaluated(torch.rand(24, 3), LABELS, bce_of_probabilities).metric == "mAP"


def test_trying_a_loss_changes_neither_it_nor_chance() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            self.calls += 1
            torch.rand(1)
            return bce(output, target)

    loss, state = Counting(), torch.get_rng_state()
    evaluated(torch.randn(7, 3, generator=torch.Generator()), LABELS[:7], loss)
    assert loss.calls == 1  # the one batch
    torch.set_rng_state(state)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "Balanced-Accuracy", "balanced accuracy"])
def test_a_metric_may_be_spelt_in_several_ways(metric: str) -> None:
    assert evaluated(torch.randn(24, 3), CLASSES, metric=metric).metric == "balanced accuracy"
    with pytest.raises(lct.ConfigError, match=r"'top-5'.*balanced-accuracy, macro-f1, map, r2, loss"):
        evaluated(torch.randn(24, 3), CLASSES, metric="top-5")


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("labels", "accuracy"),
        ("labels", "r2"),  # of logits
        ("numbers", "map"),
        ("numbers", "macro-f1"),
        ("counts", "balanced-accuracy"),
        ("counts as floats", "r2"),
        ("class numbers", "r2"),
    ],
)
def test_a_metric_that_targets_do_not_have_is_refused(kind: str, metric: str) -> None:
    targets, outputs, loss, own = KINDS[kind]
    with pytest.raises(lct.ConfigError, match=rf"metric {metric} needs .*give metric {own.lower()}, or auto"):
        evaluated(torch.randn(24, outputs), targets, loss, metric)


def test_r2_may_be_asked_for_where_the_loss_is_lowest_at_the_target() -> None:
    assert evaluated(NUMBERS + 0.1, NUMBERS, huber, "r2").accuracy > 0.9
    assert evaluated(NUMBERS + 0.1, NUMBERS, huber, "loss").metric == "loss"


@pytest.mark.parametrize("samples", [1, 12])
def test_r2_of_targets_that_do_not_differ_is_undefined_and_the_loss_decides(samples: int) -> None:
    targets = torch.full((samples, 1), 0.1)
    network = lct.LocalCriticNetwork([nn.Identity(), nn.Identity()], [nn.Linear(1, 1)])
    split = lct.TensorSplit(torch.full((samples, 1), 0.2), targets)
    with torch.no_grad():
        network.critics[0].weight.fill_(0.0)
        network.critics[0].bias.fill_(0.1)
    for metric, shown in (("auto", "loss"), ("r2", "R2")):
        with pytest.warns(lct.DataWarning, match="R2 is not defined"):
            candidates = lct.evaluate(network, split, split.inputs[:1], metric=metric, latency_repeats=0)
        assert {each.metric for each in candidates} == {shown}
        assert all(math.isnan(each.accuracy) for each in candidates)
        assert lct.select(candidates, lct.Budget()).exit == 0
        assert lct.cheaper_alternative(candidates, lct.Budget(), candidates[0]) is None


def test_r2_of_small_numbers_is_that_of_large_ones() -> None:
    assert evaluated(NUMBERS * 1e-8 + 1e-9, NUMBERS * 1e-8).accuracy == pytest.approx(
        evaluated(NUMBERS + 0.1, NUMBERS).accuracy, abs=1e-3
    )


# --- targets of every width, and those that a loss ignores -----------------------------------------------------------


@pytest.mark.parametrize("dtype", WIDTHS, ids=str)
def test_integers_of_any_width_are_class_numbers(dtype: torch.dtype) -> None:
    targets = torch.arange(24) % 2
    outputs = torch.randn(24, 2)
    given = evaluated(outputs, targets.to(dtype))
    assert given == evaluated(outputs, targets)
    loss = lct.cross_entropy(outputs, targets.to(dtype))
    assert torch.equal(loss, lct.cross_entropy(outputs, targets))


def test_a_narrow_class_number_is_not_taken_for_the_ignored_one() -> None:
    targets = torch.tensor([156, 0], dtype=torch.uint8)  # -100 in eight bits
    outputs = functional.one_hot(targets.long(), 200) * 9.0
    assert evaluated(outputs, targets).samples == 2


@pytest.mark.parametrize("ignored", [255, -1, 0, 2])
@pytest.mark.parametrize("dense", [False, True])
def test_targets_that_a_loss_of_ones_own_ignores_are_not_wrong(ignored: int, dense: bool) -> None:
    shape = (20, 3, 3) if dense else (20,)
    targets = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(0))
    outputs = functional.one_hot(targets, 3).movedim(-1, 1) * 9.0
    wrong = torch.zeros(shape, dtype=torch.bool)
    wrong[:10] = True
    outputs[:10] = outputs[:10].roll(1, 1)
    targets[::2] = ignored
    counted = targets != ignored

    def loss(output: Tensor, target: Tensor) -> Tensor:
        losses = functional.cross_entropy(output, target, ignore_index=ignored, reduction="none")
        return losses.flatten(1).mean(1) if losses.dim() > 1 else losses

    candidate = evaluated(outputs, targets, loss)
    assert candidate.accuracy == pytest.approx((~wrong[counted]).double().mean().item())
    assert candidate.samples == int(counted.flatten(1).any(1).sum()) if dense else int(counted.sum())
    assert evaluated(outputs, targets, loss, "macro-f1").score < 1


def test_a_loss_is_tried_on_the_device_where_it_works() -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        assert output.is_meta, "the weights of the classes are on another device"
        return torch.zeros(target.shape)

    assert ignored_classes(loss, (3,), torch.device("meta")) == [0, 1, 2]
    assert treatment(loss, (3,), 7, torch.device("meta")) == "ignored"
    assert ignored_classes(loss, (3,), torch.device("cpu")) == []


def test_a_batch_without_any_target_counts_nothing() -> None:
    targets = torch.arange(21) % 3
    outputs = functional.one_hot(targets, 3) * 9.0
    targets[7:14] = -100  # the second batch
    candidate = evaluated(outputs, targets)
    assert (candidate.accuracy, candidate.samples) == (1.0, 14)
    assert candidate.loss == pytest.approx(functional.cross_entropy(outputs, targets).item(), rel=1e-5)
    with pytest.raises(lct.DataError, match="ignores every target"):
        evaluated(outputs, torch.full((21,), -100))


def test_cross_entropy_averages_over_targets_with_a_class() -> None:
    output = torch.randn(4, 3, 5)
    target = torch.randint(0, 3, (4, 5))
    target[0, :3] = -100
    target[1] = -100
    losses = lct.cross_entropy(output, target)
    assert losses[0] == pytest.approx(functional.cross_entropy(output[:1], target[:1]).item())
    assert losses[1] == 0
    unlabelled = lct.cross_entropy(output[1:2].requires_grad_(), target[1:2]).mean()
    unlabelled.backward()
    assert torch.equal(output.grad if output.grad is not None else torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize(("number", "accepted"), [(3, False), (-1, False), (-100, True)])
def test_a_number_that_is_no_class_is_named(number: int, accepted: bool) -> None:
    targets = CLASSES.clone()
    targets[5] = number
    if accepted:
        assert evaluated(torch.randn(24, 3), targets).samples == 23
        return
    with pytest.raises(lct.DataError, match=rf"{number}"):
        evaluated(torch.randn(24, 3), targets)


@pytest.mark.parametrize("loss", [lct.cross_entropy, nn.CrossEntropyLoss(reduction="none")], ids=["library", "own"])
def test_class_numbers_as_floats_are_named(loss: Loss) -> None:
    network = lct.LocalCriticNetwork([nn.Linear(4, 3)])
    split = lct.TensorSplit(torch.randn(24, 4), CLASSES.double())
    data = lct.Data(train=split, val=split, test=split, classes=("a", "b", "c"))
    with pytest.raises(lct.DataError, match=r"whole numbers from 0 to 2.*torch\.float64.*\.long\(\)"):
        lct.open_run(network, data, lct.TrainConfig(epochs=1), run_dir="never", loss=loss)


# --- order -----------------------------------------------------------------------------------------------------------


def measured(*losses: float, metric: str = "loss") -> list[lct.Candidate]:
    costs = {"macs": 1, "latency_ms": None, "size_bytes": 4, "metric": metric, "samples": 50, "accuracy_error": 0.01}
    return [
        lct.Candidate(exit=k, name=f"exit {k}", accuracy=math.nan, loss=loss, flops=k + 1, parameters=k + 1, **costs)
        for k, loss in enumerate(losses)
    ]


def test_of_losses_the_lowest_is_the_best() -> None:
    candidates = measured(0.9, 0.4, 0.6, 0.3, math.nan)
    assert lct.select(candidates, lct.Budget()) is candidates[3]
    assert lct.select(candidates, lct.Budget(parameters=3)) is candidates[1]
    assert lct.pareto_front(candidates) == [candidates[0], candidates[1], candidates[3]]
    assert lct.select(candidates[4:], lct.Budget()) is candidates[4]
    low, high = candidates[1].score_interval
    assert low < 0.4 < high


@pytest.mark.parametrize(("metric", "lowest"), [("macro F1", 0), ("mAP", 0), ("balanced accuracy", 0), ("R2", -0.68)])
def test_an_interval_ends_where_its_metric_does(metric: str, lowest: float) -> None:
    costs = {"flops": 1, "macs": 1, "parameters": 1, "latency_ms": None, "size_bytes": 4, "samples": 4}
    candidate = lct.Candidate(
        exit=0, name="exit 0", accuracy=0.3, loss=1.0, metric=metric, accuracy_error=0.5, score=0.3, **costs
    )
    assert candidate.score_interval == (pytest.approx(lowest, abs=1e-2), 1.0)


def test_a_loss_below_0_with_no_known_error_has_an_interval() -> None:
    candidate = dataclasses.replace(measured(-0.5)[0], accuracy_error=None)
    assert candidate.score_interval == (-0.5, math.inf)


def test_a_cheaper_alternative_by_its_loss() -> None:
    candidates = measured(0.9, 0.41, 0.4)
    assert lct.cheaper_alternative(candidates, lct.Budget(), candidates[2]) is candidates[1]
    candidates = measured(0.9, 0.5, 0.4)
    assert lct.cheaper_alternative(candidates, lct.Budget(), candidates[2]) is None


@pytest.mark.parametrize("metric", ["macro F1", "mAP", "R2", "balanced accuracy"])
def test_where_errors_are_unknown_no_cheaper_one_is_claimed(metric: str) -> None:
    costs = {"macs": 1, "latency_ms": None, "size_bytes": 4, "metric": metric, "samples": 50, "loss": 0.1}
    candidates = [
        lct.Candidate(
            exit=k, name=f"exit {k}", accuracy=score, flops=k + 1, parameters=1, accuracy_error=error, **costs
        )
        for k, (score, error) in enumerate([(0.5, None), (0.79, 0.05), (0.8, None), (0.8, None), (0.8, 0.05)])
    ]
    assert lct.cheaper_alternative(candidates, lct.Budget(), candidates[3]) is candidates[2]  # as good
    assert lct.cheaper_alternative(candidates[:3], lct.Budget(), candidates[2]) is None
    assert lct.cheaper_alternative([candidates[1], candidates[4]], lct.Budget(), candidates[4]) is candidates[1]


def test_the_best_by_a_metric_need_not_be_the_most_accurate() -> None:
    targets = torch.tensor([0] * 90 + [1] * 10)
    usual = torch.tensor([[1.0, 0.0]]).repeat(100, 1)  # always the frequent class: 90% right
    rare = torch.where(targets[:, None] == 1, torch.tensor([[0.0, 1.0]]), usual)
    rare[:15] = torch.tensor([0.0, 1.0])  # finds the rare one, with false alarms: 85% right

    class Exit(nn.Module):
        def __init__(self, columns: slice) -> None:
            super().__init__()
            self.columns = columns

        def forward(self, x: Tensor) -> Tensor:
            return x[:, self.columns]

    network = lct.LocalCriticNetwork([nn.Identity(), Exit(slice(2, 4))], [Exit(slice(0, 2))])
    split = lct.TensorSplit(torch.cat([usual, rare], 1), targets)
    for metric, best in (("accuracy", 0), ("balanced-accuracy", 1), ("macro-f1", 1)):
        candidates = lct.evaluate(network, split, split.inputs[:1], metric=metric, latency_repeats=0)
        assert lct.select(candidates, lct.Budget()).exit == best
        assert [each.accuracy for each in candidates] == [0.9, 0.85]
    scores = score_exits(network, split, metric="balanced-accuracy")
    assert scores.score == pytest.approx([0.5, (75 / 90 + 1) / 2])


@pytest.mark.parametrize("metric", ["accuracy", "R2"])
def test_the_score_follows_the_accuracy_that_it_is(metric: str) -> None:
    (candidate,) = measured(0.5, metric=metric)
    changed = dataclasses.replace(dataclasses.replace(candidate, accuracy=0.4), accuracy=0.6)
    assert changed.score == changed.merit == 0.6
