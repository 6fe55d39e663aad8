"""Settings of long trainings do what they say: computed by hand, resumed to the bit, alike in several processes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import same
from torch import Tensor, nn

import lctprune as lct
from lctprune.config.stopping import has_stopped
from lctprune.measure.scores import score_exits
from lctprune.training.group_trainer import GroupTrainer, StepSettings, step_settings
from lctprune.training.mixing import Mix, mix_of
from lctprune.training.stage import Stage

MakeNetwork = Callable[..., lct.LocalCriticNetwork]
BASE = lct.TrainConfig(epochs=2, batch_size=16, precision="fp32", device="cpu")
LINEAR = lct.TrainConfig(
    method="local-critic", precision="fp32", device="cpu", optimizer="sgd", weight_decay=0.0, label_smoothing=0.0
)


def linear(seed: int = 0) -> lct.LocalCriticNetwork:
    torch.manual_seed(seed)
    return lct.LocalCriticNetwork([nn.Linear(4, 5), nn.Linear(5, 3)], [nn.Linear(5, 3)])


def stage_of(network: lct.LocalCriticNetwork, **changes: Any) -> Stage:
    config = dataclasses.replace(LINEAR, **changes).resolved()
    return Stage([GroupTrainer(part, config) for part in network.parts()], config, lct.cross_entropy)


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator)


# --- averaged weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["joint", "local-critic"])
def test_averages_are_those_computed_by_hand_and_are_evaluated(
    method: Any, make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    network = make_network()
    run = lct.open_run(network, data, dataclasses.replace(BASE, ema=0.9, method=method), run_dir=tmp_path)
    expected = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    steps = 0
    for progress in lct.train_steps(network, data, run):
        if progress.val_loss is not None:
            continue
        decay = min(0.9, (1 + steps) / (10 + steps))
        for name, weight in network.state_dict().items():
            floats = weight.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * weight if floats else weight.clone()
        steps += 1
    assert steps > 9
    kept = run.read_checkpoint("network.")
    for name, tensor in expected.items():
        torch.testing.assert_close(kept[name], tensor)
    assert same(kept, network.state_dict())
    assert same(kept, lct.load_network(run.path).state_dict() if run.config.network else kept)
    assert [float(run.metrics[-1][f"exit{exit}_val_loss"]) for exit in range(3)] == pytest.approx(
        score_exits(network, data.val).loss, abs=1e-5
    )


def test_weights_with_two_names_are_averaged_once() -> None:
    network = linear()
    network.groups[0].register_parameter("again", network.groups[0].weight)  # type: ignore[arg-type]
    stage, before = stage_of(network, ema=0.5), network.groups[0].weight.detach().clone()
    stage.step(*batch(), StepSettings(0, 0.1, 0.0, True))
    after = network.groups[0].weight.detach().clone()
    with stage.trainers[0].averaged():
        torch.testing.assert_close(network.groups[0].weight, 0.1 * before + 0.9 * after)
    assert torch.equal(network.groups[0].weight, after)


# --- resumed, and in several processes -------------------------------------------------------------------------------

ALL: dict[str, Any] = {"ema": 0.9, "mixup": 0.4, "cutmix": 1.0, "clip_grad_norm": 0.5, "accumulate": 2}


def test_a_training_with_all_of_it_is_resumed_to_the_bit(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path
) -> None:
    config = dataclasses.replace(BASE, **ALL, checkpoint_every=1)
    whole = lct.train(make_network(), data, config, run_dir=tmp_path / "whole")
    part = lct.open_run(make_network(), data, config, run_dir=tmp_path / "part")
    seen: set[int] = set()
    for progress in lct.train_steps(make_network(), data, part):
        seen.add(part.header.step)
        if progress.epoch == 2 and progress.step == 4:
            break
    assert {step % 2 for step in seen} == {0}  # no checkpoint has gradients that wait for others
    assert len(seen) > 1
    network = make_network(seed=4)
    lct.train(network, data, config, run_dir=part.path, resume=True)
    assert same(part.read_checkpoint(""), whole.read_checkpoint(""))
    assert same(network.state_dict(), whole.read_checkpoint("network."))
    assert part.read_checkpoint("live.").keys() == network.state_dict().keys()


# --- mixed batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["local-critic", "joint"])
@pytest.mark.parametrize("matching", [0.0, 1.0])
def test_every_exits_losses_are_mixed_sample_by_sample(method: Any, matching: float) -> None:
    network, reference = linear(), linear()
    inputs, targets = batch()
    settings = StepSettings(3, 0.1, matching, True)
    stage = stage_of(network, mixup=0.8, method=method)
    mix = mix_of(3, stage.trainers[0]._config)
    assert mix is not None
    assert 0 < mix.kept < 1
    losses = stage.step(inputs, targets, settings)
    partner = torch.tensor([7, 0, 1, 2, 3, 4, 5, 6])
    mixed = mix.kept * inputs + (1 - mix.kept) * inputs[partner]
    for output, found in zip(reference.exits(mixed), losses, strict=True):
        own, other = (lct.cross_entropy(output, each) for each in (targets, targets[partner]))
        torch.testing.assert_close(found, (mix.kept * own + (1 - mix.kept) * other).detach())


def test_a_cutmix_rectangle_has_the_area_of_the_part_that_goes() -> None:
    config = dataclasses.replace(LINEAR, cutmix=1.0).resolved()
    mixes = [mix_of(step, config) for step in range(300)]
    kept = torch.tensor([mix.kept for mix in mixes if mix])
    assert len(kept) == 300
    assert 0.4 < kept.mean() < 0.8  # a half, and more where an edge cuts the rectangle
    for mix in mixes[:20]:
        assert mix is not None
        pictures = torch.arange(3.0)[:, None, None, None].expand(3, 2, 100, 100)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        mixed = mix.apply(pictures)
        assert mixed.is_contiguous(memory_format=torch.channels_last)
        for index, partner in enumerate((2, 0, 1)):
            assert {*mixed[index].unique().tolist()} <= {index, partner}
            assert (mixed[index] == index).float().mean().item() == pytest.approx(mix.kept, abs=0.02)


def test_mixup_and_cutmix_take_turns_at_random() -> None:
    config = dataclasses.replace(LINEAR, mixup=0.5, cutmix=1.0).resolved()
    mixes = [mix_of(step, config) for step in range(200)]
    assert 60 < sum(mix is not None and mix.rectangle is None for mix in mixes) < 140
    assert mixes == [mix_of(step, config) for step in range(200)]
    assert mixes != [mix_of(step, dataclasses.replace(config, seed=1)) for step in range(200)]
    assert mix_of(0, LINEAR.resolved()) is None
    assert Mix(0.25).apply(torch.tensor([0.0, 4.0])).tolist() == [3.0, 1.0]


def test_what_cannot_be_mixed_is_refused(data: lct.Data, tmp_path: Path) -> None:
    words = lct.TensorSplit(torch.ones(32, 5, dtype=torch.int64), torch.arange(32) % 3)
    rows = lct.TensorSplit(torch.randn(32, 4), torch.arange(32) % 3)
    for split, changes, text in (
        (words, {"mixup": 0.2}, "`mixup` mixes pictures or numbers, and the inputs are words"),
        (rows, {"cutmix": 1.0}, r"`cutmix` is for pictures, and the inputs have shape \[4\]"),
        (rows, {"accumulate": 3}, "accumulate is 3; it must be at most the batches of an epoch, 2"),
    ):
        own = lct.Data(train=split, val=split, test=split, classes=("a", "b", "c"))
        with pytest.raises(lct.ConfigError, match=text):
            lct.train(linear(), own, dataclasses.replace(BASE, **changes), run_dir=tmp_path / "run")  # type: ignore[arg-type]
        assert not (tmp_path / "run").exists()


# --- gradients -------------------------------------------------------------------------------------------------------


def test_gradients_of_two_halves_are_those_of_the_whole_batch() -> None:
    whole, halves = linear(), linear()
    inputs, targets = batch()
    stage_of(whole).step(inputs, targets, StepSettings(0, 0.1, 0.0, True, 0.3))
    stage = stage_of(halves, accumulate=2)
    before = {name: tensor.clone() for name, tensor in halves.state_dict().items()}
    stage.step(inputs[:4], targets[:4], StepSettings(0, 0.1, 0.0, True, 0.3, learns=False))
    assert same(before, halves.state_dict())
    stage.step(inputs[4:], targets[4:], StepSettings(1, 0.1, 0.0, True, 0.3))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(halves.state_dict()[name], tensor)


def test_updates_are_counted_and_the_rest_of_an_epoch_makes_none() -> None:
    config = dataclasses.replace(LINEAR, epochs=2, accumulate=3, critic_period=2).resolved()
    settings = [step_settings(step, 16, config) for step in range(16)]
    assert [each.learns for each in settings] == ([False, False, True] * 2 + [False] * 2) * 2
    assert [each.update for each in settings if each.learns] == [0, 1, 2, 3]
    assert [each.update_critics for each in settings if each.learns] == [True, False, True, False]


def test_the_norm_of_each_groups_gradients_is_clipped() -> None:
    network, reference = linear(), linear()
    inputs, targets = batch()
    lct.local_critic_backward(reference, inputs, targets, matching=0.0, distill=0.0)
    limit, rate = 0.01, 0.1
    stage_of(network, clip_grad_norm=limit, momentum=1e-9).step(inputs, targets, StepSettings(0, rate, 0.0, True))
    for own, other in zip((*network.groups, *network.critics), (*reference.groups, *reference.critics), strict=True):
        gradients = [parameter.grad for parameter in other.parameters() if parameter.grad is not None]
        norm = torch.cat([each.flatten() for each in gradients]).norm()
        assert norm > limit
        for after, before in zip(own.parameters(), other.parameters(), strict=True):
            assert before.grad is not None
            torch.testing.assert_close(after, before - rate * limit / norm * before.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        *(("ema", 1.0, "at least 0 and less than 1"), ("mixup", -1.0, "0 or more"), ("cutmix", -0.1, "0 or more")),
        *(("clip_grad_norm", 0.0, "a positive number"), ("accumulate", 0, "at least 1"), ("patience", 0, "at least 1")),
        ("log_every", 0, "at least 1"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: float, text: str) -> None:
    with pytest.raises(lct.ConfigError, match=rf"{name} is {value}; it must be {text}"):
        dataclasses.replace(BASE, **{name: value})  # type: ignore[arg-type]


# --- an early end, and what is written down --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ([[0.5, 0.6], [0.6, 0.5], [0.6, 0.6]], 1, True),
        ([[0.5, 0.6], [0.6, 0.5], [0.6, 0.6]], 2, False),
        ([[0.5, 0.6], [0.4, 0.5], [0.5, 0.6]], 2, True),  # as good as before is no better
        ([[0.5, 0.6], [0.4, 0.5], [0.4, 0.7]], 2, False),
        ([[0.5, 0.6]] * 9, None, False),
        ([["", 0.6], ["", 0.5], ["0.1", "0.6"]], 2, False),
    ],
)
def test_training_ends_when_no_exit_becomes_better(scores: Any, patience: int | None, expected: bool) -> None:
    rows = [{"epoch": index, "exit0_val_r2": one, "exit1_val_r2": two} for index, (one, two) in enumerate(scores)]
    assert has_stopped(rows, patience, "R2") == expected
    losses = [{name.replace("r2", "loss"): _negative(value) for name, value in row.items()} for row in rows]
    assert has_stopped(losses, patience, "loss") == expected


def _negative(value: Any) -> Any:
    return value if value == "" else -float(value)


def test_an_early_end_is_recorded_as_the_end(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    config = dataclasses.replace(BASE, epochs=9, patience=1, lr=1e-12, critic_lr=1e-12, batch_norm="keep")
    reported = []
    run = lct.train(make_network(), data, config, run_dir=tmp_path, progress=reported.append)
    assert (run.epochs_done, len(run.metrics), reported[-1].epoch) == (2, 2, 2)
    for each in (run, lct.Run(tmp_path)):
        assert each.is_finished
        assert each.config.training.epochs == 2
        assert each.config.to_dict()["epochs_before"] == [9]


def test_every_interval_is_written_down_once(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    config = dataclasses.replace(BASE, log_every=2, checkpoint_every=3)
    whole = lct.train(make_network(), data, config, run_dir=tmp_path / "whole")
    run = lct.open_run(make_network(), data, config, run_dir=tmp_path / "part")
    for progress in lct.train_steps(make_network(), data, run):
        if (progress.epoch, progress.step) == (2, 5):
            break
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')  # as of a process that was killed
    lct.train(make_network(), data, config, run_dir=run.path, resume=True)
    lines, others = (
        [json.loads(line) for line in (each.path / "metrics.jsonl").read_text().splitlines()] for each in (whole, run)
    )
    for line in (*lines, *others):
        assert line.pop("images_per_s") > 0
    steps = progress.steps
    within = list(range(2, steps + 1, 2))
    epochs = [1] * (len(within) + 1), [2] * (len(within) + 1)
    assert [line["step"] for line in lines] == [*within, steps] * 2
    assert [line["epoch"] for line in lines] == [*epochs[0], *epochs[1]]
    for name in ("train_loss", "val_loss"):
        recorded = [float(whole.metrics[-1][f"exit{exit}_{name}"]) for exit in range(3)]
        assert lines[-1][name] == pytest.approx(recorded, abs=1e-6)
    assert lines[-1]["metric"] == "accuracy"
    assert {*lines[0]} == {"epoch", "step", "lr", "train_loss"}
    assert [(line["epoch"], line["step"], line["lr"]) for line in others] == [
        (line["epoch"], line["step"], line["lr"]) for line in lines
    ]
    assert others == lines


def test_tensorboard_gets_losses_and_scores(make_network: MakeNetwork, data: lct.Data, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = lct.train(make_network(), data, dataclasses.replace(BASE, epochs=1, tensorboard=True), run_dir=tmp_path)
    events = accumulator.EventAccumulator(str(run.path / "tensorboard")).Reload()
    (event,) = events.Scalars("val_accuracy/exit2")
    assert event.value == pytest.approx(float(run.metrics[0]["exit2_val_accuracy"]), abs=1e-5)
    assert "train_loss/exit0" in events.Tags()["scalars"]


def test_without_tensorboard_the_remedy_is_named(
    make_network: MakeNetwork, data: lct.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(lct.ConfigError, match=r"pip install 'lctprune\[tensorboard\]'"):
        lct.train(make_network(), data, dataclasses.replace(BASE, tensorboard=True), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
